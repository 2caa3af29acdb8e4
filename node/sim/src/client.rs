//! The clients of a run: they send batches, send them again, ask for what they sent, and hold every answer to the promise.
//!
//! What is checked of every answer that says it is complete, while everything goes wrong around it:
//! - every span of a batch that was acknowledged before the question began is there (I1), and so is every span that an earlier
//!   complete answer had (I4);
//! - none is there twice (I2), none is altered (I3), none was never sent, or is of another trace or tenant (I4, I5);
//! - counts lie between what was acknowledged before and what was sent so far (I1, I2).
//!
//! An answer that says it lacks something is held to I3 to I5 alone. A request without an answer in ten seconds has an unknown
//! outcome, and is sent again, mostly to another node, until it is acknowledged; some that were acknowledged are sent again too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::TenantId;
use query::metrics::{Intervals, MetricsPlan, MetricsRequest};
use server::ingest::IngestOutcome;
use server::querier::{Allowance, MetricsAnswer, MetricsQuestion, Places, TraceAnswer, TraceQuestion};
use server::refusal::{Kind, Refusal};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::entropy::Dice;
use crate::machine::{Machine, Request};
use crate::net::Place;
use crate::spans::{self, Spans, Trace};
use crate::world::World;

/// Exporters give up after ten seconds by default.
const PATIENCE_MILLIS: u64 = 10_000;
/// Batches without an answer at once.
const OPEN_MAX: usize = 24;
const QUESTIONS_MAX: usize = 6;
/// All that is ever sent lies within.
const WINDOW_UNIX_NANOS: (u64, u64) = (1_767_225_000_000_000_000, 1_767_236_000_000_000_000);

/// What a client knows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Sent at least once.
    Unknown,
    /// Acknowledged.
    Stored,
}

struct Sending {
    batch: u64,
    until: u64,
    outcome: oneshot::Receiver<Result<IngestOutcome, Refusal>>,
}

struct Asking {
    place: Place,
    trace: Trace,
    /// Batches that a complete answer must have whole.
    floor: BTreeSet<u64>,
    /// Nothing may be missing, whoever asks: everything has been well for a while.
    must_be_whole: bool,
    until: u64,
    answer: oneshot::Receiver<Result<TraceAnswer, Refusal>>,
}

struct Counting {
    tenant: TenantId,
    floor: u64,
    must_be_whole: bool,
    until: u64,
    answer: oneshot::Receiver<Result<MetricsAnswer, Refusal>>,
}

/// How many of what there were.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) again: u64,
    pub(crate) whole_answers: u64,
    pub(crate) partial_answers: u64,
    pub(crate) failed_answers: u64,
}

/// See the module's documentation.
pub(crate) struct Clients {
    world: Arc<World>,
    spans: Spans,
    dice: Dice,
    fates: BTreeMap<u64, Fate>,
    next_batch: u64,
    /// When to send which batch again.
    again: BTreeSet<(u64, u64)>,
    sending: Vec<Sending>,
    asking: Vec<Asking>,
    counting: Vec<Counting>,
    /// Batches that an answer had whole although nobody was told that they are stored.
    seen: BTreeMap<Trace, BTreeSet<u64>>,
    plan: Arc<MetricsPlan>,
    pub(crate) tally: Tally,
    /// New batches per thousand ticks.
    pub(crate) rate_per_mille: u64,
    /// When the last batch was acknowledged and the last whole answer given.
    pub(crate) last_stored: u64,
    /// Names of what went wrong last, for people.
    pub(crate) last_refusal: String,
}

impl Clients {
    pub(crate) fn new(world: Arc<World>, seed: u64) -> anyhow::Result<Self> {
        let query = query::parse("{ } | count_over_time()")?;
        let request = MetricsRequest {
            intervals: Intervals::instant(WINDOW_UNIX_NANOS.0, WINDOW_UNIX_NANOS.1)?,
            exemplars: 0,
        };
        Ok(Self {
            world,
            spans: Spans::new(seed),
            dice: Dice::of(seed, "clients"),
            fates: BTreeMap::new(),
            next_batch: 0,
            again: BTreeSet::new(),
            sending: Vec::new(),
            asking: Vec::new(),
            counting: Vec::new(),
            seen: BTreeMap::new(),
            plan: Arc::new(MetricsPlan::new(&query, request)?),
            tally: Tally::default(),
            rate_per_mille: 0,
            last_stored: 0,
            last_refusal: String::new(),
        })
    }

    /// Whether every batch is acknowledged.
    pub(crate) fn all_stored(&self) -> bool {
        self.fates.values().all(|fate| *fate == Fate::Stored) && self.sending.is_empty() && self.again.is_empty()
    }

    /// Spans that are stored, all tenants.
    pub(crate) fn stored_spans(&self) -> u64 {
        let stored = self.fates.iter().filter(|(_, fate)| **fate == Fate::Stored);
        stored.map(|(batch, _)| self.spans.count_of(*batch)).sum()
    }

    /// One millisecond.
    pub(crate) fn tick(&mut self, machines: &[Machine]) {
        self.hear();
        let now = self.world.now_millis();
        if self.rate_per_mille > 0 && self.sending.len() < OPEN_MAX && self.dice.per_mille(self.rate_per_mille) {
            let batch = self.next_batch;
            self.next_batch += 1;
            self.fates.insert(batch, Fate::Unknown);
            self.tally.sent += 1;
            self.send(batch, machines);
        }
        while let Some((at, batch)) = self.again.first().copied()
            && at <= now
        {
            self.again.pop_first();
            self.tally.again += 1;
            self.send(batch, machines);
        }
    }

    /// Asks for something at random, of a machine at random.
    pub(crate) fn ask_around(&mut self, machines: &[Machine]) {
        if self.next_batch == 0 || self.asking.len() + self.counting.len() >= QUESTIONS_MAX {
            return;
        }
        let up: Vec<Place> = machines
            .iter()
            .filter(|machine| machine.is_up())
            .map(|machine| machine.place)
            .collect();
        let Some(place) = self.dice.pick(&up) else { return };
        if self.dice.per_mille(150) {
            let tenant = self.spans.tenant_of(self.dice.below(self.next_batch));
            self.count(tenant, &machines[place], false);
        } else {
            let batch = self.dice.below(self.next_batch);
            let trace = Spans::traces_of(batch)[usize::from(self.dice.per_mille(400))];
            self.ask(trace, &machines[place], false);
        }
    }

    /// Whether no question is open.
    pub(crate) fn is_quiet(&self) -> bool {
        self.asking.is_empty() && self.counting.is_empty()
    }

    /// Every trace there is, and who owns it.
    pub(crate) fn traces(&self) -> Vec<Trace> {
        let traces: BTreeSet<Trace> = (0..self.next_batch).flat_map(Spans::traces_of).collect();
        traces.into_iter().collect()
    }

    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        let tenants: BTreeSet<TenantId> = (0..self.next_batch).map(|batch| self.spans.tenant_of(batch)).collect();
        tenants.into_iter().collect()
    }

    fn send(&mut self, batch: u64, machines: &[Machine]) {
        let (now, (done, outcome)) = (self.world.now_millis(), oneshot::channel());
        let up: Vec<Place> = machines
            .iter()
            .filter(|machine| machine.is_up())
            .map(|machine| machine.place)
            .collect();
        let request = Request::Ingest {
            tenant: self.spans.tenant_of(batch),
            body: self.spans.request(batch).into(),
            done,
        };
        let taken = self.dice.pick(&up).is_some_and(|place| machines[place].ask(request));
        if taken {
            self.sending.push(Sending {
                batch,
                until: now + PATIENCE_MILLIS,
                outcome,
            });
        } else {
            self.send_later(batch);
        }
    }

    fn send_later(&mut self, batch: u64) {
        let at = self.world.now_millis() + self.dice.between(200, 3_000);
        self.again.insert((at, batch));
    }

    /// Asks `machine` for a trace.
    pub(crate) fn ask(&mut self, trace: Trace, machine: &Machine, must_be_whole: bool) {
        let (done, answer) = oneshot::channel();
        let stored = |batch: &u64| self.fates.get(batch) == Some(&Fate::Stored);
        let mut floor: BTreeSet<u64> = Spans::batches_of(trace).filter(stored).collect();
        floor.extend(self.seen.get(&trace).into_iter().flatten());
        let question = TraceQuestion {
            tenants: Arc::from([self.spans.tenant_of(Spans::batches_of(trace).start)]),
            trace_id: self.spans.trace_id(trace),
            window: None,
            places: Places::All,
            bytes_max: u64::MAX,
            pick: None,
        };
        if machine.ask(Request::Trace { question, done }) {
            self.asking.push(Asking {
                place: machine.place,
                trace,
                floor,
                must_be_whole,
                until: self.world.now_millis() + PATIENCE_MILLIS,
                answer,
            });
        }
    }

    /// Asks `machine` how many spans a tenant has.
    pub(crate) fn count(&mut self, tenant: TenantId, machine: &Machine, must_be_whole: bool) {
        let (done, answer) = oneshot::channel();
        let stored = self.fates.iter().filter(|(_, fate)| **fate == Fate::Stored);
        let floor = self.spans_of(stored.map(|(batch, _)| *batch), &tenant);
        let question = MetricsQuestion {
            tenants: Arc::from([tenant.clone()]),
            allowance: Allowance::of(&settings::Limits::default()),
            plan: Arc::clone(&self.plan),
            series_max: 10,
        };
        if machine.ask(Request::Metrics { question, done }) {
            self.counting.push(Counting {
                tenant,
                floor,
                must_be_whole,
                until: self.world.now_millis() + 3 * PATIENCE_MILLIS,
                answer,
            });
        }
    }

    fn spans_of(&self, batches: impl Iterator<Item = u64>, tenant: &TenantId) -> u64 {
        let theirs = batches.filter(|batch| self.spans.tenant_of(*batch) == *tenant);
        theirs.map(|batch| self.spans.count_of(batch)).sum()
    }

    fn hear(&mut self) {
        let now = self.world.now_millis();
        let mut sending = std::mem::take(&mut self.sending);
        sending.retain_mut(|sending| match sending.outcome.try_recv() {
            Ok(outcome) => {
                self.sent(sending.batch, outcome);
                false
            }
            Err(TryRecvError::Empty) if now < sending.until => true,
            Err(_) => {
                self.world.count(b'u', sending.batch, 0);
                self.retry(sending.batch);
                false
            }
        });
        self.sending.append(&mut sending);
        let mut asking = std::mem::take(&mut self.asking);
        asking.retain_mut(|asking| match asking.answer.try_recv() {
            Ok(answer) => {
                self.answered(asking, answer);
                false
            }
            Err(TryRecvError::Empty) if now < asking.until => true,
            Err(_) => {
                self.failed(asking.must_be_whole, "a question had no answer in time");
                false
            }
        });
        self.asking.append(&mut asking);
        let mut counting = std::mem::take(&mut self.counting);
        counting.retain_mut(|counting| match counting.answer.try_recv() {
            Ok(answer) => {
                self.counted(counting, answer);
                false
            }
            Err(TryRecvError::Empty) if now < counting.until => true,
            Err(_) => {
                self.failed(counting.must_be_whole, "a count had no answer in time");
                false
            }
        });
        self.counting.append(&mut counting);
    }

    fn retry(&mut self, batch: u64) {
        if self.fates.get(&batch) != Some(&Fate::Stored) {
            self.send_later(batch);
        }
    }

    fn sent(&mut self, batch: u64, outcome: Result<IngestOutcome, Refusal>) {
        match outcome {
            Ok(outcome) => {
                let count = self.spans.count_of(batch);
                if outcome.accepted_spans != count || outcome.rejected_spans != 0 {
                    self.world
                        .broken(format!("batch {batch} of {count} good spans was answered {outcome:?}"));
                }
                self.world.note("client", &format!("batch {batch} is stored"));
                self.last_stored = self.world.now_millis();
                let was = self.fates.insert(batch, Fate::Stored);
                if was != Some(Fate::Stored) {
                    self.tally.acknowledged += 1;
                    // Some clients lose the answer, and some send everything twice.
                    if self.dice.per_mille(120) {
                        let at = self.world.now_millis() + self.dice.between(1, 15_000);
                        self.again.insert((at, batch));
                    }
                }
            }
            Err(refusal) => {
                if matches!(refusal.kind, Kind::Rejected | Kind::TooLarge | Kind::Internal) {
                    self.world.broken(format!("a good batch was refused: {refusal}"));
                }
                self.world.note("client", &format!("batch {batch}: {refusal}"));
                self.last_refusal = refusal.to_string();
                self.retry(batch);
            }
        }
    }

    fn failed(&mut self, must_be_whole: bool, why: &str) {
        self.tally.failed_answers += 1;
        if must_be_whole {
            self.world.broken(format!("all is well, and {why}"));
        }
    }

    fn answered(&mut self, asked: &Asking, answer: Result<TraceAnswer, Refusal>) {
        let (trace, place) = (asked.trace, asked.place);
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                self.world
                    .note("client", &format!("{trace:?} at machine {place}: {refusal}"));
                self.failed(asked.must_be_whole, &refusal.to_string());
                return;
            }
        };
        let id = self.spans.trace_id(trace);
        let (found, all) = match spans::read(&answer.trace, id) {
            Ok(read) => read,
            Err(error) => {
                return self
                    .world
                    .broken(format!("{trace:?}: the answer cannot be read: {error}"));
            }
        };
        if found.len() != all {
            self.world.broken(format!(
                "I5 {trace:?}: spans of other traces in the answer of machine {place}"
            ));
        }
        let expected = self.spans.of_trace(trace);
        let mut times: BTreeMap<&spans::Whole, u32> = BTreeMap::new();
        let mut of_batch: BTreeMap<u64, u64> = BTreeMap::new();
        for whole in &found {
            let Some(batch) = expected.get(whole) else {
                self.world.broken(format!(
                    "I3 {trace:?}: machine {place} answered a span that was never sent like this: {}",
                    spans::shown(whole)
                ));
                continue;
            };
            if !self.fates.contains_key(batch) {
                self.world
                    .broken(format!("I4 {trace:?}: a span of batch {batch}, which was never sent"));
            }
            let seen = times.entry(whole).or_default();
            *seen += 1;
            if *seen > 1 {
                self.world.broken(format!(
                    "I2 {trace:?}: a span of batch {batch} twice, at machine {place}"
                ));
            }
            *of_batch.entry(*batch).or_default() += 1;
        }
        self.world.count(b'a', place as u64, found.len() as u64);
        if !answer.missing.is_empty() || answer.is_cut {
            self.tally.partial_answers += 1;
            if asked.must_be_whole {
                self.world.broken(format!(
                    "all is well, and {trace:?} at machine {place} lacks {:?}",
                    answer.missing
                ));
            }
            return;
        }
        self.tally.whole_answers += 1;
        let mut size_of: BTreeMap<u64, u64> = BTreeMap::new();
        for batch in expected.values() {
            *size_of.entry(*batch).or_default() += 1;
        }
        for (batch, size) in size_of {
            let here = of_batch.get(&batch).copied().unwrap_or(0);
            if asked.floor.contains(&batch) && here < size {
                self.world.broken(format!(
                    "I1 {trace:?}: machine {place} has {here} of {size} spans of batch {batch}, and says nothing is missing"
                ));
            }
            if here == size && self.fates.get(&batch) == Some(&Fate::Unknown) {
                self.seen.entry(trace).or_default().insert(batch);
            }
        }
    }

    fn counted(&mut self, asked: &Counting, answer: Result<MetricsAnswer, Refusal>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                self.world
                    .note("client", &format!("count of {}: {refusal}", asked.tenant.as_str()));
                self.failed(asked.must_be_whole, &refusal.to_string());
                return;
            }
        };
        let samples = answer.series.iter().flat_map(|series| &series.samples);
        let counted = samples.map(|(_, value)| *value).sum::<f64>() as u64;
        let sent = self.spans_of(self.fates.keys().copied(), &asked.tenant);
        let tenant = asked.tenant.as_str();
        self.world.note(
            "client",
            &format!("{counted} spans of {tenant}, lacking {:?}", answer.missing),
        );
        if counted > sent {
            self.world.broken(format!(
                "I2 tenant {tenant}: {counted} spans counted, {sent} were ever sent"
            ));
        }
        if !answer.missing.is_empty() {
            self.tally.partial_answers += 1;
            if asked.must_be_whole {
                self.world
                    .broken(format!("all is well, and a count lacks {:?}", answer.missing));
            }
            return;
        }
        self.tally.whole_answers += 1;
        if counted < asked.floor {
            let floor = asked.floor;
            self.world.broken(format!(
                "I1 tenant {tenant}: {counted} spans counted, {floor} were stored before"
            ));
        }
    }
}
