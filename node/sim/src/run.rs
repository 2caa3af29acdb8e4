//! One run: a cluster is founded and grows, things go wrong while clients are at it, everything is put right again, and then
//! everything must be there.

use std::sync::Arc;

use anyhow::Context as _;
use futures::{FutureExt as _, StreamExt as _};
use model::NodeId;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use shard::store::Store;
use wal::sim_vfs::Crash;

use crate::bucket::Bucket;
use crate::client::{Clients, Tally};
use crate::machine::{Machine, Request, Surroundings, address_of};
use crate::net::Net;
use crate::story::{Event, Story};
use crate::world::World;

/// For a cluster to be founded and to have as many copies as it should.
const SETTLE_MILLIS: u64 = 120_000;
/// After everything was put right: for every batch to be taken.
const RECOVER_MILLIS: u64 = 90_000;
/// For every span to be in a block.
const FLUSH_MILLIS: u64 = 60_000;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    /// What must never happen and did.
    pub(crate) broken: Option<String>,
    /// What another run of the seed must have too.
    pub(crate) fingerprint: (u64, u64),
    pub(crate) simulated_millis: u64,
    pub(crate) tally: Tally,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            seed,
            broken,
            fingerprint: (hash, events),
            simulated_millis,
            tally,
        } = self;
        write!(
            f,
            "seed {seed}: {} s, {} batches stored, {} sent again, answers {} whole {} partial {} failed, \
             {events} events {hash:016x}: ",
            simulated_millis / 1000,
            tally.acknowledged,
            tally.again,
            tally.whole_answers,
            tally.partial_answers,
            tally.failed_answers,
        )?;
        match broken {
            None => f.write_str("ok"),
            Some(broken) => write!(f, "BROKEN: {broken}"),
        }
    }
}

struct Run {
    world: Arc<World>,
    net: Net,
    bucket: Bucket,
    machines: Vec<Machine>,
    clients: Clients,
    story: Story,
    /// Nodes whose disks are gone.
    lost: Vec<NodeId>,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, world: Arc<World>) -> anyhow::Result<Outcome> {
    let story = Story::draw(seed);
    let net = Net::new(Arc::clone(&world), seed);
    let bucket = Bucket::new(Arc::clone(&world), seed);
    let around = Surroundings {
        world: Arc::clone(&world),
        net: net.clone(),
        bucket: bucket.clone(),
        settings: settings_of(&story)?,
        seed,
    };
    let machines = (0..story.machines).map(|place| Machine::new(place, around.clone()));
    let mut run = Run {
        machines: machines.collect::<anyhow::Result<_>>()?,
        clients: Clients::new(Arc::clone(&world), seed)?,
        world: Arc::clone(&world),
        net,
        bucket,
        story,
        lost: Vec::new(),
    };
    world.note("story", &format!("{:?}", run.story));
    run.play()?;
    let (hash, events) = world.fingerprint();
    Ok(Outcome {
        seed,
        broken: world.verdict(),
        fingerprint: (hash ^ crate::entropy::drawn(), events),
        simulated_millis: world.now_millis(),
        tally: run.clients.tally,
    })
}

fn settings_of(story: &Story) -> anyhow::Result<settings::NodeSettings> {
    let merges = if story.merges { "5s" } else { "10m" };
    let text = format!(
        "
listen: {{otlp_grpc: '127.0.0.1:1', otlp_http: '127.0.0.1:2', http: '127.0.0.1:3', peer: '127.0.0.1:7946'}}
cluster: {{plaintext: true}}
shards: {{count: {}}}
flush: {{tail_age: {}ms}}
wal: {{segment_bytes: 8MiB, quota_bytes: 512MiB}}
memory: {{heads: 64MiB, column_cache: 8MiB, block_cache: 8MiB}}
compaction: {{interval: {merges}}}
query: {{threads: 1}}
",
        story.shards, story.flush_millis
    );
    let mut settings = settings::parse(&text).context("settings of the run")?;
    // Smaller than anybody may set them, so that segments end often.
    settings.wal.segment_bytes = settings::ByteSize::kib(256);
    settings.wal.quota_bytes = settings::ByteSize::mib(32);
    settings.storage.filesystem = Some(settings::storage::FilesystemSettings { path: None });
    Ok(settings)
}

impl Run {
    fn play(&mut self) -> anyhow::Result<()> {
        self.machines[0].start()?;
        self.until("the first machine founds a cluster", SETTLE_MILLIS, |run| {
            run.machines[0].observer().is_some()
        })?;
        let all: Vec<_> = (0..self.machines.len()).map(address_of).collect();
        for machine in &mut self.machines {
            machine.join = all.clone();
        }
        if self.story.grows_under_load {
            self.clients.rate_per_mille = self.story.rate_per_mille;
        }
        for place in 1..self.machines.len() {
            self.machines[place].start()?;
        }
        self.until("the cluster grows", SETTLE_MILLIS, Self::is_settled)?;
        if self.is_over() {
            return Ok(());
        }
        self.world.note("story", "begins");
        let begun = self.world.now_millis();
        self.clients.rate_per_mille = self.story.rate_per_mille;
        let events = self.story.events.clone();
        let mut events = events.into_iter().peekable();
        while self.world.now_millis() < begun + self.story.length_millis && !self.is_over() {
            while let Some((_, event)) = events.next_if(|(at, _)| begun + at <= self.world.now_millis()) {
                self.happen(event)?;
            }
            if self.world.now_millis().is_multiple_of(97) {
                self.clients.ask_around(&self.machines);
            }
            self.tick();
        }
        self.put_right()?;
        self.verify()
    }

    fn is_over(&self) -> bool {
        self.world.verdict().is_some()
    }

    fn tick(&mut self) {
        self.world.tick();
        self.net.deliver();
        for machine in &mut self.machines {
            machine.tick();
        }
        self.clients.tick(&self.machines);
    }

    /// Lets time pass until it is so; broken if it does not come.
    fn until(&mut self, what: &str, millis: u64, is_so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let end = self.world.now_millis() + millis;
        while !is_so(self) && !self.is_over() {
            if self.world.now_millis() >= end {
                let refusal = &self.clients.last_refusal;
                self.world
                    .broken(format!("I7 in {millis} ms this did not come: {what}; {refusal}"));
                break;
            }
            self.revive()?;
            self.tick();
        }
        Ok(())
    }

    /// A process that ended is started again, as its keeper would.
    fn revive(&mut self) -> anyhow::Result<()> {
        if self.machines[0].join.is_empty() || !self.world.now_millis().is_multiple_of(1_000) {
            return Ok(());
        }
        for machine in &mut self.machines {
            machine.start()?;
        }
        self.give_up_lost();
        Ok(())
    }

    /// An operator sees which disks are gone.
    fn give_up_lost(&self) {
        for lost in &self.lost {
            for machine in &self.machines {
                machine.ask(Request::GiveUp(*lost));
            }
        }
    }

    fn is_settled(&self) -> bool {
        let copies = if self.machines.len() < 3 { 1 } else { 3 };
        self.machines.iter().all(|machine| {
            let Some(observer) = machine.observer() else {
                return false;
            };
            let view = observer.ring();
            let leads = |unit: &server::node::observer::UnitStatus| unit.group.leadership.leader.is_some();
            view.state.nodes.len() == self.machines.len()
                && observer.is_settled(copies)
                && observer.units().iter().all(leads)
        })
    }

    fn happen(&mut self, event: Event) -> anyhow::Result<()> {
        self.world.note("story", &format!("{event:?}"));
        let all = 0..self.machines.len();
        match event {
            Event::Kill(place) => self.machines[place].crash(Crash::KeepAll),
            Event::LosePower(place, is_torn) => self.machines[place].crash(crash(is_torn)),
            Event::LosePowerWriting(place) => self.machines[place].crash_while_writing(Crash::Torn),
            Event::Blackout => {
                for machine in &mut self.machines {
                    machine.crash(Crash::DropUnsynced);
                }
            }
            Event::Stop(place) => {
                // A node that stands still or is starting hears of it later, or never.
                self.machines[place].ask(Request::Stop);
            }
            Event::Start(place) => self.machines[place].start()?,
            Event::Wipe(place) => {
                // Who is not even open may not have joined with its former disk yet.
                if let Some(observer) = self.machines[place].observer() {
                    self.lost.push(observer.node());
                    self.machines[place].wipe()?;
                }
            }
            Event::StandStill(place) => self.machines[place].stop_clock(),
            Event::GoOn(place) => self.machines[place].go_on(),
            Event::FailSync(place) => self.machines[place].fail_sync(),
            Event::SlowDisk(place, millis) => self.machines[place].sync_millis = millis,
            Event::Part(some) => {
                for one in some {
                    for other in all.clone().filter(|other| *other != one) {
                        self.net.set_link(one, other, |link| link.is_cut = true);
                        self.net.set_link(other, one, |link| link.is_cut = true);
                    }
                }
            }
            Event::CutOneWay(from, to) => self.net.set_link(from, to, |link| link.is_cut = true),
            Event::Lossy(per_mille) => {
                for from in all.clone() {
                    for to in all.clone() {
                        self.net.set_link(from, to, |link| link.lost_per_mille = per_mille);
                    }
                }
            }
            Event::HealNet => {
                self.net.heal();
                self.give_up_lost();
            }
            Event::Weather(weather) => self.bucket.set_weather(weather),
            Event::WrongClock(place, millis) => self.machines[place].clock.set_wrong_by(millis),
        }
        Ok(())
    }

    /// Nothing is wrong any more.
    fn put_right(&mut self) -> anyhow::Result<()> {
        self.world.note("story", "all is put right");
        self.clients.rate_per_mille = 0;
        self.net.heal();
        self.bucket.set_weather(crate::bucket::Weather::default());
        for machine in &mut self.machines {
            machine.go_on();
            machine.start()?;
            machine.sync_millis = (1, 4);
            machine.clock.set_wrong_by(0);
        }
        self.until("every batch is taken", RECOVER_MILLIS, |run| {
            run.clients.all_stored() && run.clients.is_quiet() && run.is_settled()
        })
    }

    /// Everything must be there, wherever one asks, once from the tails and once from blocks alone.
    fn verify(&mut self) -> anyhow::Result<()> {
        self.ask_all(false)?;
        self.until("every span is in a block", FLUSH_MILLIS, |run| {
            run.stored_in_blocks()
                .is_some_and(|spans| spans >= run.clients.stored_spans())
        })?;
        if self.is_over() {
            return Ok(());
        }
        let (in_blocks, stored) = (self.stored_in_blocks().unwrap_or(0), self.clients.stored_spans());
        if in_blocks < stored || in_blocks > stored && self.knows_batches() {
            self.world
                .broken(format!("I2 blocks hold {in_blocks} spans, {stored} were sent"));
        }
        self.check_objects()?;
        self.check_replicas();
        self.ask_all(true)
    }

    /// Whether a batch that comes again is always recognised before it is stored. Not across a change of generations, which
    /// inherit nothing, and not by a clock that makes five minutes pass at once: then blocks have spans twice, and only
    /// questions must not.
    fn knows_batches(&self) -> bool {
        let is_jump = |event: &Event| matches!(event, Event::WrongClock(..));
        let has_jumped = self.story.events.iter().any(|(_, event)| is_jump(event));
        !self.story.grows_under_load && self.lost.is_empty() && !has_jumped
    }

    /// Spans in blocks, when no unit has a tail that waits.
    fn stored_in_blocks(&self) -> Option<u64> {
        let observer = self.machines.iter().find_map(Machine::observer)?;
        let view = observer.ring();
        let catalog = view.state.catalog.view();
        let blocks = catalog.tenants().flat_map(|(_, blocks)| blocks.iter());
        Some(blocks.map(|block| block.spans).sum())
    }

    /// Every trace, each at one machine, and every tenant's count at all of them.
    fn ask_all(&mut self, everywhere: bool) -> anyhow::Result<()> {
        for (number, trace) in self.clients.traces().into_iter().enumerate() {
            for place in 0..self.machines.len() {
                if everywhere || place == number % self.machines.len() {
                    self.clients.ask(trace, &self.machines[place], true);
                }
            }
            if number % 16 == 15 {
                self.until("questions are answered", SETTLE_MILLIS, |run| run.clients.is_quiet())?;
            }
        }
        for tenant in self.clients.tenants() {
            for place in 0..self.machines.len() {
                self.clients.count(tenant.clone(), &self.machines[place], true);
                self.until("counts are answered", SETTLE_MILLIS, |run| run.clients.is_quiet())?;
            }
        }
        self.until("questions are answered", SETTLE_MILLIS, |run| run.clients.is_quiet())
    }

    /// The catalog names only what is there, and has heard of all that is there (I8).
    fn check_objects(&self) -> anyhow::Result<()> {
        let Some(observer) = self.machines.iter().find_map(Machine::observer) else {
            return Ok(());
        };
        let view = observer.ring();
        let objects: Vec<_> = view.state.catalog.view().objects().cloned().collect();
        for object in objects {
            let path = Path::from(&*object.path);
            let found = self
                .bucket
                .objects()
                .head(&path)
                .now_or_never()
                .context("memory does not wait")?;
            match found {
                Ok(found) if found.size == object.bytes => {}
                found => self.world.broken(format!("I8 the catalog names {path}, but {found:?}")),
            }
        }
        // Nothing was uploaded that the catalog had not heard of, or nobody would ever delete it.
        let listed: Vec<_> = self
            .bucket
            .objects()
            .list(None)
            .collect()
            .now_or_never()
            .context("memory does not wait")?;
        for found in listed {
            let key = found?.location;
            let Some(object) = Store::object_of_key(key.as_ref()) else {
                continue;
            };
            let catalog = view.state.catalog.view();
            if !catalog.knows_object(object) && !catalog.is_announced(object) {
                self.world.broken(format!("I8 {key} was uploaded and never announced"));
            }
        }
        Ok(())
    }

    /// Members that have applied the same have the same (I11).
    fn check_replicas(&self) {
        let views = self
            .machines
            .iter()
            .filter_map(Machine::observer)
            .map(|observer| observer.ring());
        let states: Vec<_> = views.map(|view| (view.applied, view.state.digest())).collect();
        for (applied, digest) in &states {
            if states
                .iter()
                .any(|(other, theirs)| other == applied && theirs != digest)
            {
                self.world
                    .broken(format!("I11 two members differ at entry {applied} of the ring"));
            }
        }
    }
}

fn crash(is_torn: bool) -> Crash {
    if is_torn { Crash::Torn } else { Crash::DropUnsynced }
}
