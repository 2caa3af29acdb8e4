//! How members of a group reach each other: bytes in, bytes out.
//!
//! [`PeerNetwork`] is what `server` implements over HTTP/2, tests in memory ([`MemoryNetwork`]) and a single node not at
//! all ([`NoPeers`]). It carries [`PeerMessage`]s and knows nothing of Raft. [`client`] is what openraft sees of it.
//!
//! What an implementation must do:
//! - Deliver to the member it was told to, or fail. Never answer for it: a made-up answer to a vote loses data.
//! - [`PeerNetwork::stream`] keeps requests in order and many of them under way at once, answers in the same order,
//!   and ends its answers when the requests end.
//! - Keep [`Lane::Control`] off the connection that carries entries, so that a large append cannot delay a heartbeat.
//!
//! Not here: who may connect, and where a node lives (`server` asks the ring).

mod client;
mod memory;

use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use model::NodeId;

pub(crate) use self::client::{Peers, StreamLimits};
pub use self::memory::{Link, MemoryNetwork};
pub use crate::codec::wire::PeerMessage;
use crate::error::Source;
use crate::payload::GroupId;

/// One member of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The node it lives on.
    pub node: NodeId,
    /// The group it is a member of.
    pub group: GroupId,
}

/// What kind of traffic a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, transfers of leadership: small and urgent.
    Control,
    /// Entries.
    Entries,
    /// Snapshots: large and patient.
    Snapshot,
}

/// Why a message has no answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The node cannot be reached; wait before trying again.
    #[error("peer cannot be reached")]
    Unreachable(#[source] Source),
    /// The connection broke under the message; another try may work at once.
    #[error("connection to peer broke")]
    Broken(#[source] Source),
    /// The node is there but refused: it has no such group, or did not understand.
    #[error("peer refused the message")]
    Refused(#[source] Source),
}

/// Carries messages between nodes. See the header of this file for what it must do.
pub trait PeerNetwork: Debug + Send + Sync + 'static {
    /// Sends one message and waits for its answer, at most `within`.
    fn call(
        &self,
        to: Peer,
        lane: Lane,
        request: PeerMessage,
        within: Duration,
    ) -> BoxFuture<'static, Result<PeerMessage, PeerError>>;

    /// Opens a stream of appends. Errors end the answers. Dropping the answers cancels the stream.
    fn stream(
        &self,
        to: Peer,
        requests: BoxStream<'static, PeerMessage>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<PeerMessage, PeerError>>, PeerError>>;
}

/// The network of a node that is alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

#[derive(Debug, thiserror::Error)]
#[error("this node has no peers")]
struct Alone;

impl PeerNetwork for NoPeers {
    fn call(
        &self,
        _: Peer,
        _: Lane,
        _: PeerMessage,
        _: Duration,
    ) -> BoxFuture<'static, Result<PeerMessage, PeerError>> {
        Box::pin(async { Err(PeerError::Unreachable(Box::new(Alone))) })
    }

    fn stream(
        &self,
        _: Peer,
        _: BoxStream<'static, PeerMessage>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<PeerMessage, PeerError>>, PeerError>> {
        Box::pin(async { Err(PeerError::Unreachable(Box::new(Alone))) })
    }
}

#[cfg(test)]
mod tests;
