//! A load over time in, how many nodes are wished out.

use std::collections::BTreeMap;

use crds::TracingCluster;

use super::*;
use crate::admin::{Signals, standalone_like};
use crate::certificates::CertificateState;
use crate::observed::Memory;
use crate::validate::{Environment, Lookups, validate};

fn cluster() -> Cluster {
    let text = "{apiVersion: x, kind: y, metadata: {name: main, namespace: tracing}, spec: {autoscaling: {mode: Operator, \
                minReplicas: 3, maxReplicas: 9, targets: {ingestBytesPerSecond: 1000}}, storage: {type: S3, s3: {bucket: traces}, \
                credentials: {mode: NodeIdentity}}}}";
    let resource: TracingCluster = serde_saphyr::from_str(text).unwrap();
    let environment = Environment {
        version: "0.1.0".to_owned(),
        node_image: "vivace:0.1.0".to_owned(),
        namespace: "operators".to_owned(),
    };
    validate(&resource, &Lookups::default(), &environment).unwrap()
}

/// A cluster whose nodes follow the wish at once.
struct Play {
    cluster: Cluster,
    status: TracingClusterStatus,
    now: Timestamp,
    changes: Vec<i32>,
}

impl Play {
    fn new() -> Self {
        Self {
            cluster: cluster(),
            status: TracingClusterStatus::default(),
            now: "2026-11-22T00:00:00Z".parse().unwrap(),
            changes: Vec::new(),
        }
    }

    /// `load` bytes per second over all nodes, for so many minutes, looked at every 15 seconds.
    fn run(&mut self, load: impl Fn(u32) -> u64, minutes: u32) {
        for step in 0..minutes * 4 {
            self.now += SignedDuration::from_secs(15);
            let nodes = self
                .status
                .autoscaling
                .as_ref()
                .map_or(3, |scaling| scaling.desired_replicas);
            let observed = self.observed(u32::try_from(nodes).unwrap(), load(step), 0);
            let wish = decide(&self.cluster, &self.status, &observed).unwrap();
            if wish.desired_replicas != nodes {
                self.changes.push(wish.desired_replicas);
            }
            self.status.autoscaling = Some(wish);
        }
    }

    fn observed(&self, nodes: u32, load: u64, refused: u64) -> Observed {
        let status = |index: u32| {
            let signals = Signals {
                ingest_bytes_per_second: load / u64::from(nodes),
                rejected_spans_per_second: refused,
                ..Signals::default()
            };
            (format!("main-node-{index}"), standalone_like(signals))
        };
        Observed {
            now: self.now,
            fresh_id: String::new(),
            memory: Memory {
                groups: [("node".to_owned(), nodes)].into(),
                ..Memory::default()
            },
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            nodes: (0..nodes).map(status).collect(),
            expandable: None,
            certificates: CertificateState::default(),
        }
    }
}

#[test]
fn it_follows_the_load_up_and_later_down() {
    let mut play = Play::new();
    play.run(|_| 3_000, 10);
    assert_eq!(play.changes, [] as [i32; 0]);
    play.run(|_| 6_000, 15);
    assert_eq!(play.changes, [6]);
    play.run(|_| 3_000, 29);
    assert_eq!(play.changes, [6], "not down before the window is over");
    play.run(|_| 3_000, 120);
    // One at a time, and only as far as the load on the rest stays below four fifths of the target.
    assert_eq!(play.changes, [6, 5, 4]);
    let scaling = play.status.autoscaling.clone().unwrap();
    play.run(|_| 3_000, 30);
    assert_eq!(
        play.status.autoscaling.unwrap(),
        scaling,
        "a settled status does not change"
    );
}

#[test]
fn a_load_that_swings_does_not_make_it_flap() {
    let mut play = Play::new();
    play.run(|step| if step % 40 < 20 { 6_000 } else { 2_000 }, 240);
    assert_eq!(
        play.changes,
        [6],
        "up once, and never down while the peaks come back within the window"
    );
    play.changes.clear();
    // Spikes that are shorter than the window up do nothing at all.
    let mut play = Play::new();
    play.run(|step| if step % 8 == 0 { 9_000 } else { 3_000 }, 60);
    assert_eq!(play.changes, [] as [i32; 0]);
}

#[test]
fn refused_spans_count_at_once_and_bounds_hold() {
    let play = Play::new();
    let wish = decide(&play.cluster, &play.status, &play.observed(3, 100, 1)).unwrap();
    assert_eq!(wish.desired_replicas, 4);
    let mut play = Play::new();
    play.run(|_| 1_000_000, 60);
    assert_eq!(play.changes, [6, 9]);
}

#[test]
fn nothing_is_decided_without_fresh_numbers() {
    let play = Play::new();
    let mut observed = play.observed(5, 100_000, 9);
    observed.memory.groups = [("node".to_owned(), 3)].into();
    for node in observed.nodes.values_mut() {
        node.signals = node.signals.map(|signals| Signals {
            age_seconds: 46,
            ..signals
        });
    }
    let wish = decide(&play.cluster, &play.status, &observed).unwrap();
    assert_eq!(wish.desired_replicas, 3);
}
