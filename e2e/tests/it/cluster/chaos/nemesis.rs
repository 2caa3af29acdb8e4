//! The faults: what each does, for how long, and how it is undone.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use vivace_e2e::s3::{Availability, Op, Rule, Toxic};

use super::{Reader, SMALL, Stage};
use crate::cluster::SOON;
use crate::cluster::load::Load;

/// How long a fault lasts that does not end by itself: an election takes three seconds, and a flush two.
const WHILE: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nemesis {
    KillLeader,
    KillAll,
    FreezeLeader,
    LeaderAlone,
    Bridge,
    OneWay,
    FlappingLinks,
    SlowLinks,
    DiskFull,
    SyncFails,
    SyncSlow,
    LogRots,
    DiskWiped,
    StoreAway,
    StoreSlow,
    StoreFails,
    RepliesLost,
    BlocksRot,
    RollingRestart,
    LeaderMoves,
    NewCertificates,
}

impl Nemesis {
    pub(super) const ALL: [Self; 21] = [
        Self::KillLeader,
        Self::KillAll,
        Self::FreezeLeader,
        Self::LeaderAlone,
        Self::Bridge,
        Self::OneWay,
        Self::FlappingLinks,
        Self::SlowLinks,
        Self::DiskFull,
        Self::SyncFails,
        Self::SyncSlow,
        Self::LogRots,
        Self::DiskWiped,
        Self::StoreAway,
        Self::StoreSlow,
        Self::StoreFails,
        Self::RepliesLost,
        Self::BlocksRot,
        Self::RollingRestart,
        Self::LeaderMoves,
        Self::NewCertificates,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "kill-leader",
            Self::KillAll => "kill-all",
            Self::FreezeLeader => "freeze-leader",
            Self::LeaderAlone => "leader-alone",
            Self::Bridge => "bridge",
            Self::OneWay => "one-way",
            Self::FlappingLinks => "flapping-links",
            Self::SlowLinks => "slow-links",
            Self::DiskFull => "disk-full",
            Self::SyncFails => "sync-fails",
            Self::SyncSlow => "sync-slow",
            Self::LogRots => "log-rots",
            Self::DiskWiped => "disk-wiped",
            Self::StoreAway => "store-away",
            Self::StoreSlow => "store-slow",
            Self::StoreFails => "store-fails",
            Self::RepliesLost => "replies-lost",
            Self::BlocksRot => "blocks-rot",
            Self::RollingRestart => "rolling-restart",
            Self::LeaderMoves => "leader-moves",
            Self::NewCertificates => "new-certificates",
        }
    }

    pub(super) fn named(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        found.unwrap_or_else(|| panic!("{name} is no fault; there are {:?}", Self::ALL.map(Self::name)))
    }

    /// Whether a majority of every group can go on while it lasts.
    pub(super) fn leaves_a_majority(self) -> bool {
        !matches!(self, Self::KillAll | Self::FlappingLinks)
    }

    /// Whether both together leave a majority and do not undo each other: one of them is the store's.
    pub(super) fn goes_with(self, other: Self) -> bool {
        self.is_of_the_store() != other.is_of_the_store()
    }

    fn is_of_the_store(self) -> bool {
        matches!(
            self,
            Self::StoreAway | Self::StoreSlow | Self::StoreFails | Self::RepliesLost | Self::BlocksRot
        )
    }

    /// Does it. When this returns, the fault has lasted long enough, and may still last.
    pub(super) async fn strike(self, stage: &mut Stage, load: &Load, reader: &Reader) {
        let (leader, _) = leader(stage).await;
        let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
        let now_at = |stage: &Stage| {
            load.now_at(&stage.cluster);
            reader.now_at(&stage.cluster);
        };
        match self {
            Self::KillLeader => {
                stage.cluster.kill(leader).await;
                now_at(stage);
                load.goes_on(15).await;
                stage.cluster.start(leader).await;
            }
            Self::KillAll => {
                for number in 0..3 {
                    stage.cluster.kill(number).await;
                }
                for number in 0..3 {
                    stage.cluster.start(number).await;
                }
            }
            Self::FreezeLeader => {
                stage.cluster.node(leader).process.signal(Signal::STOP).unwrap();
                tokio::time::sleep(WHILE).await;
                stage.cluster.node(leader).process.signal(Signal::CONT).unwrap();
            }
            Self::LeaderAlone => cut(stage, &[(leader, others[0]), (leader, others[1])], true).await,
            Self::Bridge => cut(stage, &[(others[0], others[1])], true).await,
            Self::OneWay => cut(stage, &[(others[0], leader), (others[0], others[1])], false).await,
            Self::FlappingLinks => {
                let namespaces = stage.cluster.namespaces.as_ref().unwrap();
                let pairs = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)];
                for beat in 0..40 {
                    let (from, to) = pairs[beat % pairs.len()];
                    namespaces.cut(from, to);
                    tokio::time::sleep(Duration::from_millis(150)).await;
                    namespaces.heal(from, to);
                }
            }
            Self::SlowLinks => {
                let namespaces = stage.cluster.namespaces.as_ref().unwrap();
                (0..3).for_each(|number| namespaces.slow(number, "4mbit"));
                tokio::time::sleep(WHILE).await;
            }
            Self::DiskFull => {
                stage.small.fill();
                tokio::time::sleep(WHILE).await;
                load.goes_on(5).await;
            }
            Self::SyncFails => {
                let pid = stage.cluster.node(leader).process.id().unwrap();
                let mut strace = on_sync(pid, "error=EIO:when=3");
                stage.cluster.ended(leader).await;
                now_at(stage);
                let _ = strace.wait();
                load.goes_on(15).await;
                stage.cluster.start(leader).await;
            }
            Self::SyncSlow => {
                let pid = stage.cluster.node(leader).process.id().unwrap();
                let mut strace = on_sync(pid, "delay_exit=250000");
                tokio::time::sleep(WHILE).await;
                // It lets go of the node before it ends.
                let _ = Command::new("kill").arg(strace.id().to_string()).status();
                let _ = strace.wait();
            }
            Self::LogRots => {
                let number = others[0];
                stage.cluster.kill(number).await;
                now_at(stage);
                flip_in_log(&stage.cluster.data_dir(number));
                load.goes_on(15).await;
                stage.cluster.start(number).await;
            }
            Self::DiskWiped => {
                // The one with a disk of its own keeps it, and the first has nobody to join.
                let number = 1;
                let member = stage.cluster.member_of(number).await.unwrap();
                stage.cluster.kill(number).await;
                now_at(stage);
                std::fs::remove_dir_all(stage.cluster.data_dir(number)).unwrap();
                load.goes_on(15).await;
                remove_lost(stage, member).await;
                stage.cluster.start(number).await;
            }
            Self::StoreAway => {
                stage.store.toxics().set_availability(Availability::Refusing);
                tokio::time::sleep(WHILE).await;
                load.goes_on(5).await;
            }
            Self::StoreSlow => {
                let latency = Toxic::Latency {
                    ms: 300,
                    jitter_ms: 1_500,
                };
                toxic(stage, vec![Rule::always(&[], latency)]).await;
            }
            Self::StoreFails => {
                let rules = [
                    Toxic::internal(),
                    Toxic::slow_down(),
                    Toxic::too_many(),
                    Toxic::DropRequest,
                ];
                let rules = rules.into_iter().map(|toxic| Rule::sometimes(&[], 0.2, toxic));
                toxic(stage, rules.collect()).await;
            }
            Self::RepliesLost => {
                let changes = [Op::Put, Op::CompleteMultipart, Op::UploadPart, Op::Delete];
                toxic(stage, vec![Rule::sometimes(&changes, 0.5, Toxic::DropReply)]).await;
            }
            Self::BlocksRot => toxic(stage, vec![Rule::sometimes(&[Op::Get], 0.3, Toxic::FlipBit)]).await,
            Self::RollingRestart => {
                for number in 0..3 {
                    stage.cluster.stop(number).await;
                    now_at(stage);
                    stage.cluster.start(number).await;
                    now_at(stage);
                    stage.cluster.settled(3, 3).await;
                }
            }
            Self::LeaderMoves => {
                for turn in 0..6 {
                    let to = stage.cluster.member_of(turn % 3).await;
                    let asked = leader_again(stage).await;
                    if let Some(to) = to {
                        // Refused while another move is under way; that is part of the storm.
                        let _ = stage
                            .cluster
                            .tell(asked, json!({"command": "transferLeadership", "to": to}))
                            .await;
                    }
                }
            }
            Self::NewCertificates => {
                stage.cluster.renew_certificates();
                tokio::time::sleep(WHILE).await;
                stage.cluster.kill(others[0]).await;
                now_at(stage);
                stage.cluster.start(others[0]).await;
            }
        }
    }

    /// Undoes what lasts.
    pub(super) async fn heal(self, stage: &mut Stage) {
        let namespaces = stage.cluster.namespaces.as_ref().unwrap();
        match self {
            Self::LeaderAlone | Self::Bridge | Self::OneWay => {
                for from in 0..3 {
                    (0..3).for_each(|to| namespaces.heal(from, to));
                }
            }
            Self::SlowLinks => (0..3).for_each(|number| namespaces.hurry(number)),
            Self::DiskFull => {
                stage.small.make_room();
                assert!(
                    stage.cluster.running().any(|(number, _)| number == SMALL),
                    "a full disk ends no node"
                );
            }
            _ if self.is_of_the_store() => {
                stage.store.toxics().heal();
                stage.store.reachable(true).await;
            }
            _ => {}
        }
    }
}

async fn leader(stage: &Stage) -> (usize, serde_json::Value) {
    let deadline = Instant::now() + Duration::from_secs(SOON);
    loop {
        if let Some(leader) = stage.cluster.leader().await {
            return leader;
        }
        assert!(Instant::now() < deadline, "nobody leads the ring");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn leader_again(stage: &Stage) -> usize {
    leader(stage).await.0
}

/// Takes a member out that nobody hears of any more: refused while it answered a moment ago.
async fn remove_lost(stage: &Stage, member: u64) {
    let deadline = Instant::now() + Duration::from_secs(SOON);
    loop {
        let asked = leader_again(stage).await;
        let remove = json!({"command": "remove", "member": member, "lost": true});
        let (code, said) = stage.cluster.tell(asked, remove).await;
        if code == 200 || said.contains("not a member") {
            return;
        }
        assert!(Instant::now() < deadline, "{code} {said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn cut(stage: &Stage, links: &[(usize, usize)], both_ways: bool) {
    let namespaces = stage.cluster.namespaces.as_ref().unwrap();
    for (from, to) in links {
        namespaces.cut(*from, *to);
        if both_ways {
            namespaces.cut(*to, *from);
        }
    }
    tokio::time::sleep(WHILE).await;
}

async fn toxic(stage: &Stage, rules: Vec<Rule>) {
    stage.store.toxics().set(rules);
    tokio::time::sleep(WHILE).await;
}

/// Makes a process's calls of fdatasync fail or take long.
fn on_sync(pid: u32, what: &str) -> Child {
    Command::new("strace")
        .args([
            "-f",
            "-q",
            "-p",
            &pid.to_string(),
            "-e",
            "trace=fdatasync",
            "-o",
            "/dev/null",
        ])
        .args(["-e", &format!("inject=fdatasync:{what}")])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Flips a bit in the middle of what the oldest segment holds.
fn flip_in_log(data_dir: &std::path::Path) {
    let mut segments: Vec<_> = std::fs::read_dir(data_dir.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    segments.sort();
    let largest = segments
        .iter()
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    std::fs::write(largest, bytes).unwrap();
}
