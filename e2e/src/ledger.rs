//! What was sent, what was answered, and the verdict over what was read back.
//!
//! Each request is entered before it is sent ([`Ledger::send`]) and settled when its answer is known. A reader notes the
//! [`Floor`] before it starts: what had been acknowledged by then must be in its answer, once and unaltered; what was
//! sent and never answered may be there or not, but once seen must stay.
//!
//! The ledger holds ranges of sequence numbers, not spans: content comes from [`Workload`].
//!
//! The checker is only worth something if it fails when it should; the tests below feed it bad histories.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

use crate::spans::{Comparison, FullSpan, SpanKey, Workload};

/// How many examples of each fault [`Verdict`] prints.
const EXAMPLES: usize = 5;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Acknowledged in full.
    Ok,
    /// Refused for good: nothing of it may ever appear.
    FailDefinite,
    /// No answer, or one that leaves it open: each span may appear once or not at all.
    Unknown,
}

/// Names an entry between sending and settling.
#[derive(Debug)]
#[must_use = "an entry that is never settled counts as unknown"]
pub struct Sent(usize);

/// How many answers had arrived at some moment.
#[derive(Debug, Clone, Copy)]
pub struct Floor(u64);

/// One answer to be judged.
#[derive(Debug)]
pub struct Reading<'a> {
    /// Taken before the read began.
    pub floor: Floor,
    /// Whose data was asked for.
    pub tenant: &'a str,
    /// The traces that were asked for; `None` when all were.
    pub traces: Option<HashSet<[u8; 16]>>,
    /// What came back.
    pub spans: Vec<FullSpan>,
}

/// The book of one run.
#[derive(Debug)]
pub struct Ledger {
    workload: Workload,
    tenants: BTreeMap<u16, String>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    requests: Vec<Request>,
    settled: u64,
    /// Spans without an acknowledgement that were seen all the same: from then on they must stay.
    surfaced: HashSet<SpanKey>,
    log: Option<std::fs::File>,
}

#[derive(Debug, Serialize)]
struct Request {
    client: u16,
    first: u64,
    count: u64,
    outcome: Outcome,
    /// The order in which answers came; `None` while there is none.
    settled_at: Option<u64>,
}

/// What is wrong, if anything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged spans that were looked for.
    pub required: usize,
    /// Spans that came back.
    pub found: usize,
    /// Acknowledged, or seen before, and not there.
    pub lost: Vec<SpanKey>,
    /// There more than once.
    pub doubled: Vec<SpanKey>,
    /// There, but not as sent.
    pub altered: Vec<(SpanKey, &'static str)>,
    /// There, though nobody sent it, or in the wrong trace.
    pub never_sent: Vec<SpanKey>,
    /// There, though it was refused for good.
    pub refused: Vec<SpanKey>,
    /// There for a tenant that does not own it.
    pub leaked: Vec<SpanKey>,
}

impl Ledger {
    /// A book in which each client writes for one tenant.
    pub fn new(workload: Workload, tenants: impl IntoIterator<Item = (u16, String)>) -> Self {
        Self {
            workload,
            tenants: tenants.into_iter().collect(),
            book: Mutex::default(),
        }
    }

    /// Also writes every settled entry to a file, one JSON object per line.
    pub fn logging_to(self, path: &Path) -> std::io::Result<Self> {
        self.book().log = Some(std::fs::File::create(path)?);
        Ok(self)
    }

    /// The spans that this book is about.
    pub fn workload(&self) -> Workload {
        self.workload
    }

    /// Enters a request that is about to be sent. Spans may be entered again: that is a retry.
    pub fn send(&self, client: u16, first: u64, count: u64) -> Sent {
        let mut book = self.book();
        book.requests.push(Request {
            client,
            first,
            count,
            outcome: Outcome::Unknown,
            settled_at: None,
        });
        Sent(book.requests.len() - 1)
    }

    /// Enters how it ended.
    pub fn settle(&self, sent: Sent, outcome: Outcome) {
        let mut book = self.book();
        let now = book.settled;
        book.settled += 1;
        let Some(request) = book.requests.get_mut(sent.0) else {
            return;
        };
        request.outcome = outcome;
        request.settled_at = Some(now);
        let line = serde_json::to_string(request).unwrap_or_default();
        if let Some(log) = &mut book.log {
            // The log is for people reading a failed run; the verdict does not need it.
            let _ = writeln!(log, "{line}");
        }
    }

    /// What had been answered by now.
    pub fn floor(&self) -> Floor {
        Floor(self.book().settled)
    }

    /// Spans in acknowledged requests, retries counted once.
    pub fn acknowledged(&self) -> usize {
        let standing = self.standing(self.floor());
        standing
            .values()
            .filter(|standing| **standing == Standing::Required)
            .count()
    }

    /// Every trace that any request of this tenant's clients touched, in a stable order.
    pub fn traces_of(&self, tenant: &str) -> Vec<[u8; 16]> {
        let book = self.book();
        let requests = book
            .requests
            .iter()
            .filter(|r| self.tenants.get(&r.client).is_some_and(|t| t == tenant));
        let mut ids: Vec<[u8; 16]> = requests
            .flat_map(|r| self.workload.trace_ids(r.client, r.first, r.count))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Judges one answer.
    pub fn verify(&self, reading: &Reading<'_>) -> Verdict {
        let asked = |key: SpanKey| {
            self.tenants
                .get(&key.client)
                .is_some_and(|tenant| tenant == reading.tenant)
                && reading
                    .traces
                    .as_ref()
                    .is_none_or(|traces| traces.contains(&self.workload.trace_id(key)))
        };
        let standing = self.standing(reading.floor);
        let sent_by_now = self.standing(Floor(u64::MAX));
        let mut times: HashMap<SpanKey, usize> = HashMap::new();
        let mut verdict = Verdict {
            found: reading.spans.len(),
            ..Verdict::default()
        };

        for full in &reading.spans {
            let (key, altered) = match self.workload.compare(full) {
                Comparison::Same(key) => (key, None),
                Comparison::Altered(key, part) => (key, Some(part)),
            };
            let seen = times.entry(key).or_default();
            *seen += 1;
            match sent_by_now.get(&key) {
                None => verdict.never_sent.push(key),
                Some(Standing::Forbidden) => verdict.refused.push(key),
                Some(_) if self.tenants.get(&key.client).is_none_or(|t| t != reading.tenant) => {
                    verdict.leaked.push(key);
                }
                // The right span in the answer for a trace that was not asked for.
                Some(_) if !asked(key) => verdict.never_sent.push(key),
                Some(_) if *seen == 2 => verdict.doubled.push(key),
                Some(_) => {}
            }
            if let Some(part) = altered
                && sent_by_now.contains_key(&key)
            {
                verdict.altered.push((key, part));
            }
        }

        let mut book = self.book();
        for (key, standing) in &standing {
            if *standing != Standing::Required || !asked(*key) {
                continue;
            }
            verdict.required += 1;
            if !times.contains_key(key) {
                verdict.lost.push(*key);
            }
        }
        let vanished = book
            .surfaced
            .iter()
            .filter(|key| asked(**key) && !times.contains_key(key))
            .copied()
            .collect::<Vec<_>>();
        verdict.lost.extend(vanished);
        let open = times
            .keys()
            .filter(|key| sent_by_now.get(key) == Some(&Standing::Possible))
            .copied();
        book.surfaced.extend(open);
        verdict.lost.sort_unstable();
        verdict.lost.dedup();
        verdict
    }

    /// Where each span stands: an acknowledgement outweighs an open end, which outweighs a refusal.
    fn standing(&self, floor: Floor) -> HashMap<SpanKey, Standing> {
        let mut standings = HashMap::new();
        for request in &self.book().requests {
            let known = request.settled_at.is_some_and(|at| at < floor.0);
            let standing = match request.outcome {
                Outcome::Ok if known => Standing::Required,
                Outcome::FailDefinite if known => Standing::Forbidden,
                Outcome::Ok | Outcome::FailDefinite | Outcome::Unknown => Standing::Possible,
            };
            for seq in request.first..request.first + request.count {
                let entry = standings
                    .entry(SpanKey {
                        client: request.client,
                        seq,
                    })
                    .or_insert(standing);
                *entry = (*entry).max(standing);
            }
        }
        standings
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Forbidden,
    Possible,
    Required,
}

impl Verdict {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.altered.is_empty()
            && self.never_sent.is_empty()
            && self.refused.is_empty()
            && self.leaked.is_empty()
    }

    /// Adds the findings of another reading.
    pub fn absorb(&mut self, other: Self) {
        self.required += other.required;
        self.found += other.found;
        self.lost.extend(other.lost);
        self.doubled.extend(other.doubled);
        self.altered.extend(other.altered);
        self.never_sent.extend(other.never_sent);
        self.refused.extend(other.refused);
        self.leaked.extend(other.leaked);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged spans looked for, {} found",
            self.required, self.found
        )?;
        let keys = [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("never sent", &self.never_sent),
            ("refused yet stored", &self.refused),
            ("leaked to another tenant", &self.leaked),
        ];
        for (what, keys) in keys {
            write!(f, ", {} {what}", keys.len())?;
            for key in keys.iter().take(EXAMPLES) {
                write!(f, " {}-{}", key.client, key.seq)?;
            }
        }
        write!(f, ", {} altered", self.altered.len())?;
        for (key, part) in self.altered.iter().take(EXAMPLES) {
            write!(f, " {}-{} ({part})", key.client, key.seq)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::flatten;

    const TENANT: &str = "a";

    /// Client 1 writes for `a`, client 2 for `b`; client 1 has 0..20 acknowledged, 20..30 open, 30..40 refused.
    fn ledger() -> Ledger {
        let ledger = Ledger::new(
            Workload::new(5, 1_000_000_000),
            [(1, TENANT.to_owned()), (2, "b".to_owned())],
        );
        for (first, count, outcome) in [
            (0, 20, Outcome::Ok),
            (20, 10, Outcome::Unknown),
            (30, 10, Outcome::FailDefinite),
        ] {
            let sent = ledger.send(1, first, count);
            ledger.settle(sent, outcome);
        }
        let sent = ledger.send(2, 0, 20);
        ledger.settle(sent, Outcome::Ok);
        ledger
    }

    fn stored(ledger: &Ledger, count: u64) -> Vec<FullSpan> {
        flatten(ledger.workload().request(1, 0, count).resource_spans)
    }

    fn verdict(ledger: &Ledger, spans: Vec<FullSpan>) -> Verdict {
        ledger.verify(&Reading {
            floor: ledger.floor(),
            tenant: TENANT,
            traces: None,
            spans,
        })
    }

    fn one(seq: u64) -> Vec<SpanKey> {
        vec![SpanKey { client: 1, seq }]
    }

    #[test]
    fn a_faithful_store_is_clean() {
        let ledger = ledger();
        let found = verdict(&ledger, stored(&ledger, 20));
        assert!(found.is_clean(), "{found}");
        assert_eq!((found.required, found.found), (20, 20));
        // What was never answered may be there.
        assert!(verdict(&ledger, stored(&ledger, 30)).is_clean());
    }

    #[test]
    fn a_lost_span_fails() {
        let ledger = ledger();
        let mut spans = stored(&ledger, 20);
        spans.retain(|full| ledger.workload().compare(full) != Comparison::Same(SpanKey { client: 1, seq: 7 }));
        assert_eq!(verdict(&ledger, spans).lost, one(7));
    }

    #[test]
    fn a_doubled_span_fails() {
        let ledger = ledger();
        let mut spans = stored(&ledger, 20);
        spans.push(ledger.workload().span(SpanKey { client: 1, seq: 3 }));
        assert_eq!(verdict(&ledger, spans).doubled, one(3));
    }

    #[test]
    fn an_altered_span_fails() {
        let ledger = ledger();
        let mut spans = stored(&ledger, 20);
        let key = SpanKey { client: 1, seq: 4 };
        for full in &mut spans {
            if ledger.workload().compare(full) == Comparison::Same(key) {
                full.span.name.push('!');
            }
        }
        assert_eq!(verdict(&ledger, spans).altered, [(key, "name")]);
    }

    #[test]
    fn a_span_nobody_sent_fails() {
        let ledger = ledger();
        let mut spans = stored(&ledger, 20);
        spans.push(ledger.workload().span(SpanKey { client: 1, seq: 999 }));
        assert_eq!(verdict(&ledger, spans).never_sent, one(999));
    }

    #[test]
    fn a_refused_span_fails() {
        let ledger = ledger();
        let mut spans = stored(&ledger, 20);
        spans.push(ledger.workload().span(SpanKey { client: 1, seq: 30 }));
        assert_eq!(verdict(&ledger, spans).refused, one(30));
    }

    #[test]
    fn a_leaked_span_fails() {
        let ledger = ledger();
        let mut spans = stored(&ledger, 20);
        let key = SpanKey { client: 2, seq: 0 };
        spans.push(ledger.workload().span(key));
        assert_eq!(verdict(&ledger, spans).leaked, [key]);
    }

    #[test]
    fn an_open_span_that_vanishes_fails() {
        let ledger = ledger();
        assert!(verdict(&ledger, stored(&ledger, 21)).is_clean());
        assert_eq!(verdict(&ledger, stored(&ledger, 20)).lost, one(20));
    }

    #[test]
    fn a_read_is_held_to_its_floor_only() {
        let ledger = ledger();
        let floor = ledger.floor();
        let sent = ledger.send(1, 40, 5);
        ledger.settle(sent, Outcome::Ok);
        let reading = |spans| Reading {
            floor,
            tenant: TENANT,
            traces: None,
            spans,
        };
        assert!(
            ledger.verify(&reading(stored(&ledger, 20))).is_clean(),
            "acknowledged after the read began"
        );
        assert_eq!(verdict(&ledger, stored(&ledger, 20)).lost.len(), 5);
    }

    #[test]
    fn a_read_of_one_trace_is_held_to_that_trace() {
        let ledger = ledger();
        let workload = ledger.workload();
        let traces = Some(HashSet::from([workload.trace_id(SpanKey { client: 1, seq: 0 })]));
        let reading = |spans| Reading {
            floor: ledger.floor(),
            tenant: TENANT,
            traces: traces.clone(),
            spans,
        };
        assert!(ledger.verify(&reading(stored(&ledger, 8))).is_clean());
        assert_eq!(
            ledger.verify(&reading(stored(&ledger, 9))).never_sent,
            one(8),
            "another trace's span"
        );
        assert_eq!(ledger.verify(&reading(Vec::new())).lost.len(), 8);
    }

    #[test]
    fn a_retry_that_is_acknowledged_counts_as_acknowledged() {
        let ledger = ledger();
        let sent = ledger.send(1, 20, 10);
        ledger.settle(sent, Outcome::Ok);
        assert_eq!(verdict(&ledger, stored(&ledger, 20)).lost.len(), 10);
        assert!(verdict(&ledger, stored(&ledger, 30)).is_clean());
    }
}
