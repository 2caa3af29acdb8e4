//! The admin API: what people and the operator ask of the cluster and tell it, on a port of its own.
//!
//! Owns [`Admin`]. Two paths: `GET /admin/v1/status` says what this node knows ([`status`]), `POST /admin/v1/command` does
//! something ([`command`]). Both speak the JSON that the operator has types for.
//!
//! What always holds: a command names the node it means by its id in the ring, so that one that comes late finds nothing to
//! do harm to; it may be repeated; one that would lose data is refused with what to do instead; every command is said in the
//! log with its outcome.
//!
//! | answer | means |
//! |---|---|
//! | 200 | done, or it was done before |
//! | 400 | not understood |
//! | 409, and why | refused |
//! | 421, and who | to be asked of the ring's leader |
//! | 503, and why | not known whether it happened; ask again |

mod command;
mod door;
mod signals;
mod status;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::NodeId;
use parking_lot::Mutex;
use shard::reads::WatchedReader;
use shard::turns::Turns;
use wal::Wal;

pub use self::command::AdminCommand;
pub(super) use self::door::serve;
use super::members::Restarts;
use super::ring::RingPort;
use super::shards::Shards;
use crate::app::Common;
use crate::peer::PeerTransport;

/// What the admin API can see and do.
pub(super) struct Admin {
    pub(super) common: Common,
    pub(super) ring: Arc<RingPort>,
    pub(super) shards: Arc<Shards>,
    pub(super) reads: Arc<WatchedReader>,
    pub(super) wal: Wal,
    /// Whether this node is handing over to be restarted.
    pub(super) is_restarting: AtomicBool,
    pub(super) peers: Option<PeerTransport>,
    pub(super) turns: Arc<Turns>,
    /// What rates count from.
    pub(super) looks: Mutex<signals::Looks>,
}

impl Admin {
    fn me(&self) -> NodeId {
        self.ring.node()
    }

    /// Who is about to be restarted, as the ring has it.
    fn restarts(&self) -> Restarts {
        Restarts::of(&self.ring.ring_view())
    }
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum No {
    /// It will not be, and this is what to do instead.
    Refused(String),
    /// Somebody else has to be asked.
    Elsewhere(Option<NodeId>),
    /// Nobody knows.
    Unknown(String),
}

impl No {
    fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}
