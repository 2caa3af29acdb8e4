//! Answers what other nodes ask.

use std::sync::Arc;

use bytes::Bytes;
use consensus::ConsensusError;
use consensus::ring::{NodeRecord, NodeState, RingCommand};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use model::NodeId;
use parking_lot::RwLock;
use tonic::Status;

use super::behind;
use super::lane::Unstored;
use super::reader::Reader;
use super::ring::RingPort;
use super::route::Router;
use super::tails::Tails;
use crate::peer::PeerTransport;
use crate::peer::accept::Desk;
use crate::peer::hello::Hello;
use crate::peer::question::{Question, Reply};
use crate::querier::Querier as _;
use crate::refusal::{Kind, Refusal};

/// What is behind the desk; empty while the node is being built.
#[derive(Default)]
pub(super) struct NodeDesk {
    rooms: RwLock<Option<Arc<DeskRooms>>>,
}

pub(super) struct DeskRooms {
    pub(super) ring: Arc<RingPort>,
    /// `None` while the shards are being opened.
    pub(super) router: Option<Arc<Router>>,
    /// `None` as long.
    pub(super) reader: Option<Arc<Reader>>,
    /// `None` as long.
    pub(super) tails: Option<Arc<Tails>>,
    pub(super) peers: PeerTransport,
}

impl NodeDesk {
    /// From now on questions are answered.
    pub(super) fn open(&self, rooms: DeskRooms) {
        *self.rooms.write() = Some(Arc::new(rooms));
    }

    /// From now on they are not.
    pub(super) fn close(&self) {
        *self.rooms.write() = None;
    }
}

impl Desk for NodeDesk {
    fn answer(&self, caller: Arc<Hello>, question: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        let rooms = self.rooms.read().clone();
        async move {
            let rooms = rooms.ok_or_else(|| Status::unavailable("the node is starting or stopping"))?;
            let question = Question::decode(question).map_err(|error| Status::invalid_argument(error.to_string()))?;
            Ok(rooms.reply(&caller, question).await.encode())
        }
        .boxed()
    }
}

impl DeskRooms {
    async fn reply(&self, caller: &Hello, question: Question) -> Reply {
        match question {
            Question::Join {
                name,
                zone,
                address,
                feature_level,
            } => {
                let view = self.ring.ring_view();
                let state = view
                    .state
                    .nodes
                    .get(&caller.from)
                    .map_or(NodeState::Active, |node| node.state);
                let record = NodeRecord {
                    id: caller.from,
                    pod: name,
                    zone,
                    address,
                    state,
                    feature_level,
                    joined_unix_nanos: 0,
                };
                if !self.ring.group().is_leader() {
                    return self.not_leader(self.ring.group().leader());
                }
                match self.ring.command(consensus::ring::Body::PutNode(record)).await {
                    Ok(Ok(_)) => Reply::Done,
                    Ok(Err(refusal)) => Reply::Refused(Refusal::new(Kind::Rejected, refusal.to_string())),
                    Err(error) => Reply::Refused(Refusal::new(Kind::Unavailable, error.to_string())),
                }
            }
            Question::Propose(command) => {
                // A command that nobody understands would stop the ring on every member.
                if RingCommand::decode(&command).is_err() {
                    return Reply::Refused(Refusal::new(Kind::Rejected, "this program does not know the command"));
                }
                let proposed = self.ring.propose_for(command).await;
                self.position(proposed)
            }
            Question::RingIndex => {
                let index = self.ring.group().read_index().await;
                self.position(index)
            }
            Question::Trace(question) => match &self.reader {
                None => self.not_leader(None),
                Some(reader) => match reader.trace_by_id(question).await {
                    Ok(answer) => Reply::Trace(answer),
                    Err(refusal) => Reply::Refused(refusal),
                },
            },
            Question::Tail { group, after, upto } => match &self.tails {
                None => self.not_leader(None),
                Some(tails) => match tails.hand_out(group, after, upto).await {
                    Ok(reply) => reply,
                    Err(Ok(leader)) => self.not_leader(leader),
                    Err(Err(message)) => Reply::Refused(Refusal::new(Kind::Unavailable, message)),
                },
            },
            Question::Behind => match &self.tails {
                None => self.not_leader(None),
                Some(tails) => Reply::Behind(
                    behind::known_here(&tails.shards, self.ring.node())
                        .into_iter()
                        .collect(),
                ),
            },
            Question::Store { group, frame } => match &self.router {
                None => self.not_leader(None),
                Some(router) => self.stored(router.store_for(group, frame).await),
            },
        }
    }

    fn stored(&self, outcome: Result<(), Unstored>) -> Reply {
        match outcome {
            Ok(()) => Reply::Done,
            Err(Unstored::NotLeader(leader)) => self.not_leader(leader),
            Err(Unstored::Sealed) => Reply::Sealed {
                epoch: self.ring.ring_view().state.map.epoch,
            },
            Err(Unstored::Refused(refusal)) => Reply::Refused(refusal),
        }
    }

    fn position(&self, outcome: Result<model::LogIndex, ConsensusError>) -> Reply {
        match outcome {
            Ok(index) => Reply::At(index),
            Err(ConsensusError::NotLeader { leader, .. }) => self.not_leader(leader),
            Err(error) => Reply::Refused(error.into()),
        }
    }

    fn not_leader(&self, leader: Option<NodeId>) -> Reply {
        Reply::NotLeader {
            leader,
            address: leader.and_then(|leader| self.peers.book().address_of(leader)),
        }
    }
}
