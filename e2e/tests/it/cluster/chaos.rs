//! One fault after the other on three nodes under load, each on its own link, with a store that can be broken.
//!
//! While a fault lasts, writers send and a reader asks for what was acknowledged; after it everything of that round is read
//! back. A line for each fault says what was acknowledged, what of it is lost, doubled or altered, and the longest time
//! without an acknowledgement and without a complete answer. `VIVACE_CHAOS_MINUTES` goes on for so long with faults drawn
//! from `VIVACE_SEED`, two at a time; `VIVACE_CHAOS` names the only faults to try: together with `+`, one after the other
//! with a comma; `VIVACE_SECOND_BIN` is the program of a rolling restart.
//!
//! Needs root: network namespaces, a small file system, and strace for the calls of the disk.

mod nemesis;
mod reader;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vivace_e2e::s3::{S3Options, S3Server};
use vivace_e2e::skip::{Unavailable, skipped};
use vivace_e2e::spans::mix;
use vivace_e2e::stores::Settings;

use super::members::Cluster;
use super::namespaces::Namespaces;
use super::{GAP_MAX, Load};
use crate::full_disk::Disk;
use nemesis::Nemesis;
use reader::Reader;

const TEST: &str = "cluster::chaos";
/// The node on a small disk.
const SMALL: usize = 2;
/// Room for its log with its quota, and no more.
const SMALL_MIB: u32 = 320;
/// What a client waits for an answer before it asks somebody else.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cluster that can be hurt.
struct Stage {
    cluster: Cluster,
    store: S3Server,
    small: Disk,
    seed: u64,
    round: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_loses_nothing() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };
    match std::env::var("VIVACE_CHAOS") {
        Ok(names) => {
            for round in names.split(',') {
                let faults: Vec<Nemesis> = round.split('+').map(Nemesis::named).collect();
                stage.suffer(&faults).await;
            }
        }
        Err(_) => {
            for fault in Nemesis::ALL {
                stage.suffer(&[fault]).await;
            }
            // What is in no block and no memory is in the log, or it is lost.
            stage.suffer(&[Nemesis::StoreAway, Nemesis::KillAll]).await;
        }
    }
    let minutes = std::env::var("VIVACE_CHAOS_MINUTES").ok();
    let minutes: u64 = minutes.map_or(0, |text| text.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    while Instant::now() < until {
        let draw = |salt: u64| {
            let drawn = mix(stage.seed, stage.round * 2 + salt);
            Nemesis::ALL[(drawn % Nemesis::ALL.len() as u64) as usize]
        };
        let pair = [draw(0), draw(1)];
        if pair[0].goes_with(pair[1]) {
            stage.suffer(&pair).await;
        } else {
            stage.suffer(&pair[..1]).await;
        }
    }
}

impl Stage {
    async fn set() -> Option<Self> {
        let mut cluster = Cluster::new(TEST)?;
        let no = |why: &str| {
            skipped(TEST, &Unavailable(why.to_owned()));
            None
        };
        let Some(namespaces) = Namespaces::make(3) else {
            return no("network namespaces cannot be made here");
        };
        if std::process::Command::new("strace").arg("-V").output().is_err() {
            return no("there is no strace");
        }
        let listen = SocketAddr::new(namespaces.gateway().parse().unwrap(), 0);
        cluster.namespaces = Some(namespaces);
        let store = S3Server::start(S3Options {
            listen,
            ..S3Options::default()
        });
        let store = store.await.unwrap();
        let secrets = cluster.scratch.path().join("store");
        cluster.storage = Settings::of(&store).for_node(&secrets).unwrap();
        // So that reads meet the store's faults, and failures end while somebody waits.
        cluster.storage["read_cache"] = serde_json::json!("0B");
        cluster.storage["request_timeout"] = serde_json::json!("3s");
        cluster.storage["retry_budget"] = serde_json::json!("3s");
        let folder = cluster.scratch.dir(&format!("node-{SMALL}/data")).unwrap();
        let small = match Disk::mount(&folder, SMALL_MIB) {
            Ok(small) => small,
            Err(reason) => {
                skipped(TEST, &reason);
                return None;
            }
        };
        for _ in 0..3 {
            cluster.grow().await;
        }
        cluster.settled(3, 3).await;
        let seed = std::env::var("VIVACE_SEED").map_or(20_261_124, |text| text.parse().unwrap());
        println!("VIVACE_SEED={seed}");
        if let Ok(bin) = std::env::var("VIVACE_SECOND_BIN") {
            cluster.second = Some(PathBuf::from(bin));
        }
        Some(Self {
            cluster,
            store,
            small,
            seed,
            round: 0,
        })
    }

    /// One round: faults, then healing, then everything of this round is read.
    async fn suffer(&mut self, faults: &[Nemesis]) {
        let names: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
        let name = names.join(" + ");
        self.round += 1;
        let mut load = Load::of(&self.cluster, mix(self.seed, self.round), PATIENCE);
        load.goes_on(10).await;
        let reader = Reader::start(&self.cluster, &load);
        load.gap();
        for fault in faults {
            fault.strike(self, &load, &reader).await;
        }
        for fault in faults {
            fault.heal(self).await;
        }
        load.now_at(&self.cluster);
        reader.now_at(&self.cluster);
        self.cluster.settled(3, 3).await;
        load.goes_on(10).await;
        let write_gap = load.gap();
        load.end().await;
        let (read_gap, complaints) = reader.end().await;
        let verdict = self.cluster.read_once(&load, &name).await;
        println!(
            "chaos: {name}: {} spans acknowledged, {} lost, {} doubled, {} altered, longest gap of writes {:.1} s, of reads {:.1} s",
            load.ledger.acknowledged(),
            verdict.lost.len(),
            verdict.doubled.len(),
            verdict.altered.len(),
            write_gap.as_secs_f64(),
            read_gap.as_secs_f64(),
        );
        assert_eq!(complaints, Vec::<String>::new(), "{name}");
        assert!(verdict.is_clean(), "{name}: {verdict}");
        if faults.iter().all(|fault| fault.leaves_a_majority()) {
            let gap_max = GAP_MAX * faults.len() as u32;
            assert!(write_gap < gap_max, "{name}: {write_gap:?} without an acknowledgement");
        }
    }
}
