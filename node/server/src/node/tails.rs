//! The live spans a question reads, wherever their generations are led.
//!
//! Owns [`Tails`]. What is led here is read where it is, once a majority has confirmed that it still is. Of what is led
//! elsewhere this node keeps a *mirror* for as long as questions come: the leader hands out the committed entries of its log
//! above what the mirror has, as they stand in the log, and the mirror takes them in as a leader takes its own tail back.
//! So a question joins traces across blocks and all tails here, in one place, and a second one costs only what has come
//! since the first.
//!
//! What always holds:
//! - a mirror has exactly the leader's committed entries above a watermark, up to a position that a majority confirmed after
//!   the question began;
//! - mirrors together stay within a budget of bytes; what does not fit, or cannot be asked for in time, is named as missing;
//! - a mirror nobody asked for in [`IDLE_MAX`] is dropped.
//!
//! Not here: what is done with the spans (`shard`).

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{ConsensusError, Kind};
use model::{BlockId, Clock, LogIndex, NodeId};
use parking_lot::Mutex;
use shard::catalog::GroupKey;
use shard::owner::{Shard, ShardOptions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ring::RingPort;
use super::shards::{Shards, Unit};
use crate::peer::PeerTransport;
use crate::peer::question::{Question, Reply, TailEntry};

/// A round to a majority, for a question.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);
/// One try at another node.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// While an election is on, an answer is worth waiting for.
const WHOLE_WITHIN: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(100);
/// Log bytes handed out at once.
const PAGE_BYTES: usize = 2 << 20;
/// Mirrors are dropped after this long.
const IDLE_MAX: Duration = Duration::from_secs(60);
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub(super) struct Tails {
    pub(super) ring: Arc<RingPort>,
    pub(super) shards: Arc<Shards>,
    /// `None`: this node is alone.
    pub(super) peers: Option<PeerTransport>,
    pub(super) clock: Arc<dyn Clock>,
    /// Never written to: a mirror makes no blocks.
    pub(super) spool_dir: PathBuf,
    pub(super) new_block_id: Arc<dyn Fn() -> BlockId + Send + Sync>,
    /// Bytes of all mirrors.
    pub(super) bytes_max: usize,
    pub(super) slots: Mutex<HashMap<GroupKey, Arc<Slot>>>,
}

/// Where the mirror of one generation is kept.
#[derive(Default)]
pub(super) struct Slot {
    mirror: tokio::sync::Mutex<Option<Mirror>>,
    /// Of the mirror, readable while it is being filled.
    shard: Mutex<Option<Arc<Shard>>>,
    leader: Mutex<Option<NodeId>>,
    /// On the monotonic clock.
    used: Mutex<Duration>,
}

struct Mirror {
    shard: Arc<Shard>,
    reached: LogIndex,
}

/// Shards that may be read now, and what cannot.
#[derive(Default)]
pub(super) struct Readable {
    pub(super) shards: Vec<Arc<Shard>>,
    /// Their lives when they were confirmed.
    lives: Vec<u64>,
    pub(super) missing: Vec<String>,
}

impl Readable {
    /// Whether what was read of them since is whole: none of them has let go of its spans meanwhile.
    pub(super) fn is_whole(&self) -> bool {
        let lives = self.shards.iter().map(|shard| shard.life());
        lives.zip(&self.lives).all(|(now, then)| now == Some(*then))
    }
}

enum Miss {
    /// Worth another try.
    Yet(String),
    /// Not in this question's time.
    Never(String),
}

impl Tails {
    /// Everything live, each generation confirmed, and what of the map cannot be read. To be asked before the catalog is.
    /// `hash`: only what may hold traces of this placement is asked.
    pub(super) async fn readable(&self, hash: Option<u64>) -> Readable {
        let mut readable = Readable::default();
        if self.ring.refresh(CONFIRM_WITHIN).await.is_err() {
            let message = "the ring has no majority: what was flushed or moved just now may be missing";
            readable.missing.push(message.to_owned());
        }
        let view = self.ring.ring_view();
        let map = &view.state.map;
        let is_asked = |key: &GroupKey| {
            let current = map.shards.get(&key.shard).filter(|record| record.key() == *key);
            let range = current
                .map(|record| record.range)
                .or_else(|| map.sealed.get(key).map(|sealed| sealed.range));
            hash.is_none_or(|hash| range.is_some_and(|range| range.contains(hash)))
        };
        let generations: Vec<(GroupKey, BTreeSet<NodeId>)> = map
            .live_generations()
            .filter(|(key, _)| is_asked(key))
            .map(|(key, members)| (key, members.clone()))
            .collect();
        let deadline = Instant::now() + WHOLE_WITHIN;
        let reading = generations
            .iter()
            .map(|(key, members)| self.read(*key, members, deadline));
        for outcome in futures::future::join_all(reading).await {
            match outcome {
                Ok((shard, life)) => {
                    readable.shards.push(shard);
                    readable.lives.push(life);
                }
                Err(missing) => readable.missing.push(missing),
            }
        }
        readable
    }

    /// Whether there is no other node.
    pub(super) fn is_alone(&self) -> bool {
        self.peers.is_none()
    }

    async fn read(
        &self,
        key: GroupKey,
        members: &BTreeSet<NodeId>,
        deadline: Instant,
    ) -> Result<(Arc<Shard>, u64), String> {
        for tries in 0.. {
            let reading = tokio::time::timeout_at(deadline, self.try_read(key, members, tries));
            let why = match reading.await {
                Ok(Ok(shard)) => return Ok(shard),
                Ok(Err(Miss::Never(why))) => return Err(why),
                Ok(Err(Miss::Yet(why))) => why,
                Err(_) => "no answer in time".to_owned(),
            };
            if Instant::now() + PAUSE >= deadline || self.peers.is_none() {
                return Err(format!("live spans of shard {key}: {why}"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("live spans of shard {key} were not read"))
    }

    async fn try_read(
        &self,
        key: GroupKey,
        members: &BTreeSet<NodeId>,
        tries: usize,
    ) -> Result<(Arc<Shard>, u64), Miss> {
        let unit = self.shards.get(key);
        if let Some(unit) = &unit
            && (members.len() == 1 || unit.group.is_leader())
        {
            return read_here(unit, members.len()).await;
        }
        let Some(peers) = &self.peers else {
            return Err(Miss::Yet("they are on another node".to_owned()));
        };
        let slot = Arc::clone(self.slots.lock().entry(key).or_default());
        let leader = unit.and_then(|unit| unit.group.leader()).or(*slot.leader.lock());
        let one_of_them = members.iter().nth(tries % members.len().max(1)).copied();
        let Some(target) = leader.filter(|_| tries % 3 < 2).or(one_of_them) else {
            return Err(Miss::Yet("nobody has them".to_owned()));
        };
        if target == self.ring.node() {
            return Err(Miss::Yet("it is not known who leads".to_owned()));
        }
        self.read_there(peers, key, target, &slot).await
    }

    /// Brings the mirror up to what `target` has, and the catalog with it.
    async fn read_there(
        &self,
        peers: &PeerTransport,
        key: GroupKey,
        target: NodeId,
        slot: &Slot,
    ) -> Result<(Arc<Shard>, u64), Miss> {
        let mut held = slot.mirror.lock().await;
        *slot.used.lock() = self.clock.monotonic();
        let watermark = self.ring.watermark(key);
        // A flush seldom ends where a page did: then what is above it is read again.
        let is_usable = |mirror: &Mirror| mirror.reached >= watermark && mirror.shard.head().fits(watermark);
        if !held.as_ref().is_some_and(is_usable) {
            *held = None;
        }
        // Whoever stops waiting leaves what has been read so far to the next one.
        let mirror = held.get_or_insert_with(|| Mirror {
            shard: Arc::new(Shard::starting_after(key, watermark, self.options())),
            reached: watermark,
        });
        mirror.shard.head().drop_to(watermark);
        *slot.shard.lock() = Some(Arc::clone(&mirror.shard));
        let mut upto = None;
        loop {
            let question = Question::Tail {
                group: key,
                after: mirror.reached,
                upto,
            };
            let answer = peers.ask(target, question.encode(), ASK_WITHIN).await;
            let answer = answer.map_err(|_| Miss::Yet(format!("node {target} does not answer")))?;
            let (entries, reached, applied) = match Reply::decode(answer) {
                Ok(Reply::Tail { entries, reached, upto }) => (entries, reached, upto),
                Ok(Reply::NotLeader { leader, address }) => {
                    if let (Some(leader), Some(address)) = (leader, address) {
                        peers.book().hear(leader, &address);
                    }
                    *slot.leader.lock() = leader;
                    return Err(Miss::Yet("it is not known who leads".to_owned()));
                }
                // The log forgot what the catalog has: a newer catalog is on its way here.
                Ok(Reply::Refused(refusal)) => return Err(Miss::Yet(refusal.message.to_string())),
                Ok(_) | Err(_) => return Err(Miss::Never(format!("node {target} is of another version"))),
            };
            *slot.leader.lock() = Some(target);
            upto = Some(applied);
            let shard = Arc::clone(&mirror.shard);
            let taking = tokio::task::spawn_blocking(move || {
                entries
                    .iter()
                    .try_for_each(|entry| shard.read_in(entry.index, &entry.command, &entry.repeats))
            });
            match taking.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Miss::Never(format!("they cannot be read: {error}"))),
                Err(_) => return Err(Miss::Never("reading them was lost".to_owned())),
            }
            let is_stuck = reached <= mirror.reached && reached < applied;
            mirror.reached = mirror.reached.max(reached);
            if self.bytes() > self.bytes_max {
                *slot.shard.lock() = None;
                *held = None;
                return Err(Miss::Never(
                    "they are on another node, and too many to be read here".to_owned(),
                ));
            }
            if mirror.reached >= applied || is_stuck {
                // A mirror has one life.
                return Ok((Arc::clone(&mirror.shard), mirror.shard.life().unwrap_or_default()));
            }
        }
    }

    fn options(&self) -> ShardOptions {
        ShardOptions {
            spool_dir: self.spool_dir.clone(),
            // The budget of all mirrors is looked at after each page.
            live_bytes_max: usize::MAX,
            wait_for_disk: Arc::new(|| ()),
            clock: Arc::clone(&self.clock),
            new_block_id: Arc::clone(&self.new_block_id),
        }
    }

    /// Bytes of all mirrors.
    pub(super) fn bytes(&self) -> usize {
        let slots: Vec<_> = self.slots.lock().values().cloned().collect();
        let bytes = slots.iter().map(|slot| {
            let shard = slot.shard.lock();
            shard.as_ref().map_or(0, |shard| shard.head().heap_bytes())
        });
        bytes.sum()
    }

    /// Drops mirrors that nobody asks for.
    pub(super) async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIDY_EVERY) => {}
            }
            let now = self.clock.monotonic();
            let is_used = |slot: &Arc<Slot>| now.saturating_sub(*slot.used.lock()) < IDLE_MAX;
            self.slots.lock().retain(|_, slot| is_used(slot));
        }
    }

    /// What another node asks of a log that is led here: committed entries above `after`. Without `upto` it is found out
    /// first, from a majority, how far the log goes.
    ///
    /// Errors: who leads instead; or why there is nothing to hand out.
    pub(super) async fn hand_out(
        &self,
        key: GroupKey,
        after: LogIndex,
        upto: Option<LogIndex>,
    ) -> Result<Reply, Result<Option<NodeId>, String>> {
        let Some(unit) = self.shards.get(key) else {
            return Err(Ok(None));
        };
        if !unit.group.is_leader() {
            return Err(Ok(unit.group.leader().filter(|leader| *leader != self.ring.node())));
        }
        let upto = match upto {
            Some(upto) => upto,
            None => {
                let confirmed = tokio::time::timeout(CONFIRM_WITHIN, unit.group.read_index()).await;
                match confirmed {
                    Ok(Ok(index)) => index,
                    Ok(Err(ConsensusError::NotLeader { leader, .. })) => return Err(Ok(leader)),
                    Ok(Err(_)) | Err(_) => return Err(Err("no majority confirmed who leads".to_owned())),
                }
            }
        };
        let upto = unit.shard.sealed().map_or(upto, |sealed| sealed.min(upto));
        if after >= upto {
            return Ok(Reply::Tail {
                entries: Vec::new(),
                reached: after,
                upto,
            });
        }
        let reading = tokio::task::spawn_blocking(move || {
            let (entries, reached) = unit.group.committed_entries(after, upto, PAGE_BYTES)?;
            let entries: Vec<TailEntry> = entries
                .into_iter()
                .map(|(at, payload)| TailEntry {
                    index: at.index,
                    repeats: unit.shard.repeats_of(at.index),
                    command: Bytes::clone(payload.data()),
                })
                .collect();
            // Which of them are repeats is forgotten together with what the log may forget.
            let is_whole = unit.shard.flushed() <= after;
            Ok::<_, ConsensusError>((entries, reached, is_whole))
        });
        match reading.await {
            Ok(Ok((entries, reached, true))) => Ok(Reply::Tail { entries, reached, upto }),
            Ok(Ok(_)) => Err(Err("the log has gone on to a newer catalog".to_owned())),
            Ok(Err(error)) if error.kind() == Kind::Rejected => {
                Err(Err("the log has gone on to a newer catalog".to_owned()))
            }
            Ok(Err(error)) => Err(Err(error.to_string())),
            Err(_) => Err(Err("reading the log was lost".to_owned())),
        }
    }
}

async fn read_here(unit: &Unit, members: usize) -> Result<(Arc<Shard>, u64), Miss> {
    let life = unit.shard.life();
    let Some(life) = life else {
        return Err(Miss::Yet("they are being read back from the log".to_owned()));
    };
    // Nobody else can lead a group of one.
    if members > 1 {
        let confirmed = tokio::time::timeout(CONFIRM_WITHIN, unit.group.read_index()).await;
        if !matches!(confirmed, Ok(Ok(_))) {
            return Err(Miss::Yet("no majority confirmed who leads".to_owned()));
        }
    }
    Ok((Arc::clone(&unit.shard), life))
}
