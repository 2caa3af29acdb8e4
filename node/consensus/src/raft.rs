//! Which openraft this is: its type parameters and its timings. No other crate sees an openraft name.
//!
//! Leader ids carry the node (openraft's "advanced" form, which its own fuzzer, Jepsen suite and largest user run), so two
//! candidates of one term are ordered and a split vote cannot tie.
//!
//! openraft counts entries from 0 and we count from 1, so that 0 can mean "before the first entry". The conversion is
//! [`index_of`] and [`raft_index`] and happens only at the edge of this crate, and once more in what goes to disk.

use std::sync::Arc;
use std::time::Duration;

use model::LogIndex;
use openraft::impls::{BoxedErrorSource, EmptyNode, InlineBatch, leader_id_adv};
use openraft::{Config, EntryPayload, RaftTypeConfig, SnapshotPolicy};

use crate::group::proposal::ProposalResponder;
use crate::payload::Payload;
use crate::state_machine::Answer;

/// The type parameters of every group: ring and shards share one instance of openraft's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Payload;
    type R = Answer;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload<Payload, u64, EmptyNode>;
    type Entry = openraft::impls::Entry<LeaderId, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = ProposalResponder<T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Entry = <Types as RaftTypeConfig>::Entry;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, EmptyNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, EmptyNode>;

/// Our position for openraft's: one more, and 0 for none.
pub(crate) fn index_of(log_id: Option<&LogId>) -> LogIndex {
    LogIndex(log_id.map_or(0, |id| id.index + 1))
}

/// openraft's position for ours, `None` for "before the first entry".
pub(crate) fn raft_index(index: LogIndex) -> Option<u64> {
    index.0.checked_sub(1)
}

/// How patient a group is. The defaults suit disks whose sync takes tens of milliseconds; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Least silence before a voter stands for election. Must be longer than a heartbeat.
    pub election_min: Duration,
    /// Most silence before a voter stands for election. Also the length of a leader's lease.
    pub election_max: Duration,
}

impl Default for Timing {
    /// Heartbeat 500 ms, election 1.5 to 3 s: openraft's 50 ms and 150 to 300 ms are shorter than one slow sync
    /// (p99 10 to 60 ms measured on shared virtual disks) and would depose healthy leaders.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(1500),
            election_max: Duration::from_secs(3),
        }
    }
}

impl Timing {
    /// openraft's configuration for `cluster`.
    pub(crate) fn config(self, cluster: String) -> Result<Arc<Config>, openraft::ConfigError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: cluster,
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // A leader that lost its quorum in a partial partition must fall silent long enough for another to be
            // elected; needs at least lease + longest election timeout. Off by default in openraft.
            quorum_loss_probe_interval: Some(millis(self.election_max) * 2),
            enable_pre_vote: Some(true),
            // A restarted leader stands for election instead of serving from a state it may not have recovered.
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            // Snapshots follow the flush watermark, which only the machine knows.
            snapshot_policy: SnapshotPolicy::Never,
            // Openraft never purges by itself: entries below a snapshot stay until their readers are done, and
            // `snapshot_and_purge` says when.
            max_in_snapshot_log_to_keep: u64::MAX,
            // Means "caught up" for add_learner; the default of 5000 entries would be gigabytes.
            replication_lag_threshold: 8,
            // Counts entries; bytes are capped in the log reader.
            max_payload_entries: 300,
            install_snapshot_timeout: 30_000,
            // Bytes are budgeted before a proposal reaches openraft, so these only need to be long enough not to be
            // the narrow place: at 1 KiB an entry the group's budget is 32 Ki proposals.
            api_channel_size: Some(32_768),
            notification_channel_size: Some(8_192),
            state_machine_channel_size: Some(1_024),
            api_batch_capacity: 1_024,
            max_append_entries: Some(1_024),
            ..Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }
}
