//! The plan against a world that does not wait for it.
//!
//! A run is a seed: two operators look and act in turn with Kubernetes, the nodes and misfortune; they are killed between
//! any two writes, read what is no longer so, and lose their connection to each other. At the end misfortune stops, and the
//! world must come to rest as it is wanted, and then not be written to any more.
//!
//! `SIM_SEED=n` runs one seed and prints what happened; `SIM_SEEDS=n` runs more of them. [`Plant`] is a list of bugs; each
//! must be found, or the invariant that it breaks is not watched.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crds::TracingCluster;
use crds::cluster::status::Operation;
use vivace_operator::admin::MemberState;
use vivace_operator::names;
use vivace_operator::observed::Observed;
use vivace_operator::plan::{Decision, applied_pods, decide};
use vivace_operator::validate::{Cluster, Lookups, validate};

use crate::objects::environment;
use crate::world::{Violation, World};

/// A bug that the watchers must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    /// The lock is not looked at.
    NoLock,
    /// Groups are as large as the pods that were seen.
    SizeFromPods,
    /// What is remembered is written without looking whether somebody else has.
    NoCompare,
    /// A node that leaves counts as drained at once.
    NothingToHandOver,
    /// A disk is known by its pod's name.
    DiskByName,
    /// A volume that cannot be had counts as long gone.
    LostAtOnce,
    /// Everybody but the pod in question counts as well, and every shard as whole.
    AllIsWell,
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What is wanted of the world now.
#[derive(Debug, Clone, PartialEq)]
struct Wish {
    replicas: u32,
    zones: u32,
    template: String,
    volume: String,
    /// What a person has written on the resource.
    annotations: BTreeMap<String, String>,
}

impl Wish {
    fn cluster(&self) -> Cluster {
        let zones = ["a", "b", "c"][..self.zones as usize].join(", ");
        let text = format!(
            "{{apiVersion: x, kind: y, metadata: {{name: main, namespace: tracing}}, spec: {{replicas: {}, \
             topology: {{zones: [{zones}]}}, persistence: {{size: {}, autoReplaceAfter: 1m}}, upgrade: {{minReadySeconds: 10, \
             progressDeadline: 10m}}, storage: {{type: S3, s3: {{bucket: traces}}, credentials: {{mode: NodeIdentity}}}}}}}}",
            self.replicas, self.volume
        );
        let mut cluster: TracingCluster = serde_saphyr::from_str(&text).unwrap();
        cluster.metadata.annotations = Some(self.annotations.clone());
        validate(&cluster, &Lookups::default(), &environment()).unwrap()
    }

    fn hashes(&self, cluster: &Cluster) -> BTreeMap<String, String> {
        cluster
            .groups
            .iter()
            .map(|group| (group.name.clone(), self.template.clone()))
            .collect()
    }
}

/// One operator process: what it has seen last.
#[derive(Default)]
struct Operator {
    /// An old look at the world, which it may still be working with.
    cached: Option<(u64, Observed, World)>,
}

struct Run {
    /// The wish, validated; made anew when the wish changes.
    cluster: Option<(Wish, Rc<Cluster>)>,
    world: World,
    wish: Wish,
    dice: Dice,
    plant: Option<Plant>,
    operators: [Operator; 2],
    faults: bool,
    /// What is looked for; anything ends the run where nothing is.
    sought: Option<Violation>,
}

/// Steps in which anything may happen, and steps to come to rest in.
const WILD: u32 = 220;
const CALM: u32 = 900;
/// Steps for which a person lets the operator try by itself.
const PATIENCE: u32 = 30;

impl Run {
    fn new(seed: u64, plant: Option<Plant>) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            dice.roll(2);
        }
        let zones = if dice.one_in(2) { 3 } else { 0 };
        let wish = Wish {
            replicas: 3 + u32::try_from(dice.roll(4)).unwrap(),
            zones,
            template: "v1".to_owned(),
            volume: "20Gi".to_owned(),
            annotations: BTreeMap::new(),
        };
        Self {
            cluster: None,
            world: World::new(3),
            wish,
            dice,
            plant,
            operators: Default::default(),
            faults: true,
            sought: None,
        }
    }

    fn cluster(&mut self) -> Rc<Cluster> {
        match &self.cluster {
            Some((wish, cluster)) if *wish == self.wish => cluster.clone(),
            _ => {
                let cluster = Rc::new(self.wish.cluster());
                self.cluster = Some((self.wish.clone(), cluster.clone()));
                cluster
            }
        }
    }

    /// What an operator sees: now, or for a while what it saw before.
    fn look(&mut self, who: usize) -> (u64, Observed, World) {
        let fresh_id = format!("id-{}-{who}", self.world.version);
        if let Some((version, observed, began)) = self.operators[who].cached.clone()
            && self.faults
            && self.dice.one_in(3)
        {
            return (version, observed, began);
        }
        let mut observed = self.world.observe(&fresh_id);
        if self.faults && self.dice.one_in(4) {
            // Some lists are older than others.
            if let Some((_, old, _)) = &self.operators[who].cached {
                match self.dice.roll(4) {
                    0 => observed.pods.clone_from(&old.pods),
                    1 => observed.claims.clone_from(&old.claims),
                    2 => observed.nodes.clone_from(&old.nodes),
                    _ => observed.sets.clone_from(&old.sets),
                }
            }
        }
        if self.faults && self.dice.one_in(5) {
            // Some nodes do not answer in time.
            let names: Vec<String> = observed.nodes.keys().cloned().collect();
            for name in names {
                if self.dice.one_in(3) {
                    observed.nodes.remove(&name);
                }
            }
        }
        let look = (self.world.version, observed, self.world.clone_quietly());
        self.operators[who].cached = Some(look.clone());
        look
    }

    fn misled(&self, mut observed: Observed) -> Observed {
        match self.plant {
            Some(Plant::NoLock) => observed.memory.operation = Default::default(),
            Some(Plant::NothingToHandOver) => {
                for view in observed.nodes.values_mut().filter_map(|node| node.view.as_mut()) {
                    for member in view
                        .members
                        .iter_mut()
                        .filter(|member| member.state == MemberState::Leaving)
                    {
                        member.shards = 0;
                        member.wal_bytes = 0;
                        member.role = vivace_operator::admin::Role::Learner;
                    }
                }
            }
            Some(Plant::DiskByName) => {
                let views = observed.nodes.values().filter_map(|node| node.view.as_ref());
                let mut by_pod: BTreeMap<String, String> = BTreeMap::new();
                for member in views.flat_map(|view| &view.members) {
                    let (pod, incarnation) = (member.pod.clone(), member.incarnation.clone());
                    by_pod.entry(pod).or_insert(incarnation);
                }
                for (pod, node) in &mut observed.nodes {
                    if let Some(incarnation) = by_pod.get(pod) {
                        node.incarnation.clone_from(incarnation);
                    }
                }
            }
            Some(Plant::LostAtOnce) => {
                let long_ago = observed.now - jiff::SignedDuration::from_hours(1);
                let lost = observed.pods.iter().filter(|(_, pod)| pod.is_volume_lost);
                observed.memory.lost_since = lost.map(|(name, _)| (name.clone(), long_ago)).collect();
            }
            Some(Plant::AllIsWell) => {
                for pod in observed.pods.values_mut() {
                    pod.is_ready = true;
                }
                let views = observed.nodes.values().filter_map(|node| node.view.clone());
                let members = views
                    .max_by_key(|view| view.term)
                    .map(|view| view.members)
                    .unwrap_or_default();
                if let Some(node) = observed.nodes.values().next().cloned() {
                    for member in members.iter().filter(|member| observed.pods.contains_key(&member.pod)) {
                        let mut absent = node.clone();
                        (absent.raft_id, absent.view) = (Some(member.raft_id), None);
                        absent.incarnation.clone_from(&member.incarnation);
                        observed.nodes.entry(member.pod.clone()).or_insert(absent);
                    }
                }
                for node in observed.nodes.values_mut() {
                    let Some(view) = &mut node.view else { continue };
                    view.shards.healthy = view.shards.total;
                    (
                        view.shards.under_replicated,
                        view.shards.unavailable,
                        view.shards.moving,
                    ) = (0, 0, 0);
                    for member in &mut view.members {
                        (member.lag, member.reachable, member.shards_behind) = (0, true, 0);
                    }
                }
            }
            Some(Plant::SizeFromPods | Plant::NoCompare) | None => {}
        }
        observed
    }

    /// One look and what follows; the operator may be killed after any write. Says whether anything was written.
    fn reconcile(&mut self, who: usize) -> bool {
        let (version, observed, began) = self.look(who);
        let observed = self.misled(observed);
        let cluster = self.cluster();
        let hashes = self.wish.hashes(&cluster);
        let mut is_written = false;

        for group in &cluster.groups {
            let Some(pods) = observed.memory.groups.get(&group.name).copied() else {
                continue;
            };
            let set = names::set(&cluster.name, &group.name);
            let seen = observed.sets.get(&set);
            let mut replicas = applied_pods(pods, seen.map(|set| set.replicas));
            if self.plant == Some(Plant::SizeFromPods) && seen.is_some() {
                let here = observed.pods.iter().filter(|(name, pod)| {
                    names::ordinal(&cluster.name, &group.name, name).is_some() && !pod.is_terminating
                });
                replicas = u32::try_from(here.count()).unwrap();
            }
            let bytes = seen.and_then(|set| set.template_bytes).unwrap_or(cluster.volume_bytes);
            // Applied with the version that was read: a set that somebody else has changed meanwhile is left alone.
            let actual = self.world.observe("").sets.get(&set).cloned();
            if actual.as_ref() == seen {
                is_written |= seen.is_none_or(|seen| seen.replicas != replicas);
                self.world.apply_set(&set, replicas, &self.wish.template, bytes);
            }
            if self.killed() {
                return true;
            }
        }

        let Decision { memory, act, .. } = decide(&cluster, &observed, &hashes);
        let is_remembered = memory == observed.memory;
        if !is_remembered || act.is_some() {
            is_written = true;
            if self.world.version != version && self.plant != Some(Plant::NoCompare) {
                return true;
            }
            if memory.operation != observed.memory.operation {
                let Operation {
                    kind,
                    target,
                    target_id,
                    step,
                    attempts,
                    ..
                } = &memory.operation;
                let about = format!(
                    "{} {}",
                    target.as_deref().unwrap_or(""),
                    target_id.as_deref().unwrap_or("")
                );
                let step = step.as_deref().unwrap_or("");
                let now = self.world.now;
                self.world.log.push(format!(
                    "{now} operator {who}: {kind:?} {about} {step} {attempts} {:?}",
                    memory.groups
                ));
            }
            self.world.version += 1;
            self.world.memory = memory;
        }
        if self.killed() {
            return true;
        }
        if let Some(act) = act {
            self.world.act(&act, &began);
        }
        is_written
    }

    fn killed(&mut self) -> bool {
        let is_killed = self.faults && self.dice.one_in(12);
        if is_killed {
            self.world.log.push("operator is killed".to_owned());
        }
        is_killed
    }

    fn misfortune(&mut self) {
        let pods = self.world.pod_names();
        let pick = |dice: &mut Dice| {
            pods.get(usize::try_from(dice.roll(pods.len().max(1) as u64)).unwrap())
                .cloned()
        };
        match self.dice.roll(40) {
            0 | 1 => {
                if let Some(pod) = pick(&mut self.dice) {
                    self.world.kill(&pod);
                }
            }
            2 | 3 => {
                if let Some(pod) = pick(&mut self.dice) {
                    let steps = 1 + u32::try_from(self.dice.roll(12)).unwrap();
                    self.world.cut_off(&pod, steps);
                }
            }
            4 => {
                if let Some(pod) = pick(&mut self.dice).filter(|pod| self.world.can_lose(pod)) {
                    self.world.lose_volume(&pod);
                }
            }
            5 => self.world.is_bucket_away = !self.world.is_bucket_away,
            6 => self.wish.replicas = 3 + u32::try_from(self.dice.roll(5)).unwrap(),
            7 => {
                let version = 2 + self.dice.roll(4);
                self.wish.template = format!("v{version}");
                if self.dice.one_in(4) {
                    self.wish.template = format!("bad{version}");
                    self.world.bad.insert(self.wish.template.clone());
                }
            }
            9 => self.wish.volume = ["20Gi", "30Gi", "40Gi"][usize::try_from(self.dice.roll(3)).unwrap()].to_owned(),
            11 | 12 => {
                if let Some(pod) = pick(&mut self.dice) {
                    let steps = 1 + u32::try_from(self.dice.roll(20)).unwrap();
                    self.world.volume_away(&pod, steps);
                }
            }
            10 => {
                let sets = self.world.set_names();
                if let Some(set) = sets.first() {
                    let replicas = u32::try_from(self.dice.roll(6)).unwrap();
                    self.world.scale_by_hand(set, replicas);
                }
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        match self.dice.roll(5) {
            0 => {
                self.reconcile(0);
            }
            1 if self.dice.one_in(2) => {
                self.reconcile(1);
            }
            2 => self.misfortune(),
            _ => self.world.tick(),
        }
    }

    /// Misfortune stops; one operator is left, and everything has its time.
    fn come_to_rest(&mut self) {
        self.faults = false;
        self.world.is_bucket_away = false;
        if self.wish.template.starts_with("bad") {
            self.wish.template = "v9".to_owned();
        }
        let replicas = self.wish.replicas as usize;
        let mut waited = 0;
        for _ in 0..CALM {
            self.world.tick();
            self.reconcile(0);
            self.world.tick();
            waited = self.help(waited);
            let is_idle = self.world.memory.operation == Default::default();
            if is_idle && self.world.unrest(replicas, &self.wish.template).is_none() {
                break;
            }
        }
        if let Some(why) = self.world.unrest(replicas, &self.wish.template) {
            let (message, told) = (decide_message(self), self.world.told());
            self.world
                .log
                .push(format!("VIOLATION: no rest: {why}; the operator says: {message}{told}"));
            self.world.violations.insert(Violation::NoRest);
            return;
        }
        // What is left to tidy up is tidied up; then nothing is written any more.
        for _ in 0..20 {
            self.reconcile(0);
            self.world.tick();
        }
        for _ in 0..20 {
            if self.reconcile(0) {
                self.world.log.push("VIOLATION: written to at rest".to_owned());
                self.world.violations.insert(Violation::Restless);
            }
            // Time passes, but less than an hour, after which old claims go.
            self.world.tick();
        }
    }

    /// A person reads what the operator says, waits a while whether it goes on by itself, and then does as it says. Nothing
    /// else helps: every misfortune has to be mended by what is written in a message.
    fn help(&mut self, waited: u32) -> u32 {
        let cluster = self.cluster();
        let hashes = self.wish.hashes(&cluster);
        let observed = self.misled(self.world.observe(""));
        let said = decide(&cluster, &observed, &hashes).stalled.map(|stall| stall.message);
        let advice = said.as_deref().and_then(advice);
        let Some((key, value)) = advice else {
            // It goes on: what was written is taken back, or it would hold for whoever comes under that name later.
            if !self.wish.annotations.is_empty() && said.is_none() {
                self.wish.annotations.clear();
            }
            return 0;
        };
        if waited < PATIENCE || self.wish.annotations.get(&key) == Some(&value) {
            return waited + 1;
        }
        self.world.log.push(format!("a person writes {key}={value}"));
        self.wish.annotations.insert(key, value);
        0
    }

    fn run(mut self) -> World {
        self.go_wild();
        if self.world.violations.is_empty() {
            self.come_to_rest();
        }
        self.world
    }

    fn go_wild(&mut self) {
        for _ in 0..WILD {
            self.step();
            let found = &self.world.violations;
            if self.sought.map_or(!found.is_empty(), |sought| found.contains(&sought)) {
                return;
            }
        }
    }
}

/// The annotation that a message says to write.
fn advice(message: &str) -> Option<(String, String)> {
    let (_, words) = message.split_once("kubectl annotate trc main ")?;
    let (key, value) = words
        .split(|end: char| end.is_whitespace() || end == ';')
        .next()?
        .split_once('=')?;
    Some((key.to_owned(), value.to_owned()))
}

fn decide_message(run: &Run) -> String {
    let cluster = run.wish.cluster();
    let decision = decide(&cluster, &run.misled(run.world.observe("")), &run.wish.hashes(&cluster));
    format!(
        "{:?} {} {:?}",
        decision.memory.operation, decision.message, decision.stalled
    )
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let set = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match (set("SIM_SEED"), set("SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => 1..seeds + 1,
        (None, None) => 1..usual + 1,
    }
}

#[test]
fn nothing_bad_happens_and_everything_comes_to_rest() {
    for seed in seeds(120) {
        let world = Run::new(seed, None).run();
        if std::env::var_os("SIM_SEED").is_some() {
            println!("{}", world.log.join("\n"));
        }
        assert!(
            world.violations.is_empty(),
            "SIM_SEED={seed}: {:?}\n{}",
            world.violations,
            world.log[world.log.len().saturating_sub(60)..].join("\n")
        );
    }
}

#[test]
fn planted_bugs_are_found() {
    // A seed near the first that finds it, so that the search is short.
    for (plant, expected, near) in [
        (Plant::NoLock, Violation::NoRest, 1),
        (Plant::SizeFromPods, Violation::ShrankOverMember, 1),
        (Plant::NoCompare, Violation::MajorityLost, 100),
        (Plant::NothingToHandOver, Violation::DataLost, 1),
        (Plant::NothingToHandOver, Violation::VoteTooEarly, 1),
        (Plant::DiskByName, Violation::NoRest, 1),
        (Plant::LostAtOnce, Violation::GivenUpTooEarly, 1),
        (Plant::AllIsWell, Violation::MajorityLost, 12),
    ] {
        let mut seen = BTreeSet::new();
        let found = (near..near + 400).find(|seed| {
            let mut run = Run::new(*seed, Some(plant));
            run.sought = Some(expected);
            run.go_wild();
            if expected == Violation::NoRest {
                run.come_to_rest();
            }
            seen.extend(run.world.violations.iter().copied());
            run.world.violations.contains(&expected)
        });
        assert!(
            found.is_some(),
            "{plant:?} was not found as {expected:?}, only {seen:?}"
        );
        println!("{plant:?}: {expected:?} with seed {}", found.unwrap());
    }
}

#[test]
fn a_ring_is_not_made_again_where_one_lived() {
    for status_is_lost in [false, true] {
        let mut run = Run::new(1, None);
        run.come_to_rest();
        assert!(run.world.violations.is_empty(), "{:?}", run.world.violations);
        run.world.lose_everything();
        if status_is_lost {
            run.world.memory = Default::default();
            run.world.version += 1;
        }
        let pods = run.world.pod_names();
        for _ in 0..200 {
            run.world.tick();
            run.reconcile(0);
        }
        assert!(run.world.violations.is_empty(), "{}", run.world.log.join("\n"));
        assert_eq!(run.world.made(), 1, "{}", run.world.log.join("\n"));
        assert_eq!(run.world.pod_names(), pods);
    }
}
