//! What openraft sees of a [`PeerNetwork`].
//!
//! openraft's own multi-group helper overrides neither the append stream nor pre-votes, so it would send one append at a
//! time and grant every pre-vote; hence this adapter.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use model::NodeId;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use super::{Lane, Peer, PeerError, PeerMessage, PeerNetwork};
use crate::codec::wire::{
    Request, decode_append_response, decode_snapshot_response, decode_transfer_response, decode_vote_response,
};
use crate::codec::{CodecError, encode_snapshot};
use crate::payload::GroupId;
use crate::raft::{LeaderId, Types, Vote};

type Snapshot = openraft::Snapshot<LeaderId, u64, EmptyNode, bytes::Bytes>;
type Appended = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// How long a stream may stand still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamLimits {
    /// A request without answer for this long breaks the stream. Longer than a slow sync, shorter than for ever: a peer
    /// that hangs must not hold a window of entries (openraft's own limit would be one heartbeat).
    pub(crate) stall_max: Duration,
    /// For a whole snapshot.
    pub(crate) snapshot_max: Duration,
}

/// Makes clients for the members of one group.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    pub(crate) network: Arc<dyn PeerNetwork>,
    pub(crate) group: GroupId,
    pub(crate) limits: StreamLimits,
}

impl Peers {
    fn client(&self, node: u64, lane: Lane) -> PeerClient {
        PeerClient {
            network: self.network.clone(),
            to: Peer {
                node: NodeId(node),
                group: self.group,
            },
            lane,
            limits: self.limits,
        }
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> PeerClient {
        self.client(target, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &EmptyNode) -> PeerClient {
        self.client(target, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, _: &EmptyNode) -> PeerClient {
        self.client(target, Lane::Snapshot)
    }
}

/// Speaks to one member.
#[derive(Debug)]
pub(crate) struct PeerClient {
    network: Arc<dyn PeerNetwork>,
    to: Peer,
    lane: Lane,
    limits: StreamLimits,
}

impl PeerClient {
    async fn call<T>(
        &self,
        lane: Lane,
        request: Request,
        within: Duration,
        decode: impl FnOnce(&PeerMessage) -> Result<T, CodecError>,
    ) -> Result<T, RPCError<Types>> {
        let answer = self.network.call(self.to, lane, request.encode(), within);
        let answer = match tokio::time::timeout(within, answer).await {
            Ok(answer) => answer.map_err(rpc_error)?,
            Err(_) => return Err(stalled()),
        };
        decode(&answer).map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    /// Heartbeats: one request, one answer, on the lane that entries cannot block.
    async fn append_one(&self, request: AppendEntriesRequest<Types>, within: Duration) -> Appended {
        self.call(Lane::Control, Request::Append(request), within, decode_append_response)
            .await
    }
}

fn rpc_error(error: PeerError) -> RPCError<Types> {
    match &error {
        PeerError::Unreachable(_) | PeerError::Refused(_) => RPCError::Unreachable(Unreachable::new(&error)),
        PeerError::Broken(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

fn stalled() -> RPCError<Types> {
    let error = io::Error::new(io::ErrorKind::TimedOut, "peer did not answer in time");
    RPCError::Unreachable(Unreachable::new(&error))
}

impl NetBackoff<Types> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetStreamAppend<Types> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Appended>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        if self.lane == Lane::Control {
            let this = &*self;
            let answers = input.then(move |request| this.append_one(request, option.soft_ttl()));
            return Box::pin(async move { Ok(Box::pin(answers) as BoxStream<'s, Appended>) });
        }
        let pipeline = Pipeline::Waiting {
            network: self.network.clone(),
            to: self.to,
            input: Box::pin(input),
        };
        let stall_max = self.limits.stall_max;
        let appended = stream::unfold(pipeline, move |pipeline| pipeline.next(stall_max));
        Box::pin(async move { Ok(Box::pin(appended) as BoxStream<'s, Appended>) })
    }
}

type Requests = BoxStream<'static, AppendEntriesRequest<Types>>;
type Answers = BoxStream<'static, Result<PeerMessage, PeerError>>;

/// A stream of appends, from its first request to its last answer.
enum Pipeline {
    /// Nothing to send yet. openraft waits between tries inside its stream of requests, so the connection must not be
    /// opened before the first one comes: a peer that is down would otherwise be tried in a tight loop.
    Waiting {
        network: Arc<dyn PeerNetwork>,
        to: Peer,
        input: Requests,
    },
    /// Many requests may be under way.
    Open {
        answers: Answers,
        outstanding: Arc<AtomicUsize>,
    },
    /// An error was the last item.
    Ended,
}

impl Pipeline {
    async fn next(self, stall_max: Duration) -> Option<(Appended, Self)> {
        match self {
            Self::Waiting { network, to, mut input } => {
                let first = input.next().await?;
                let outstanding = Arc::new(AtomicUsize::new(1));
                let sent = outstanding.clone();
                let rest = input.inspect(move |_| {
                    sent.fetch_add(1, Ordering::AcqRel);
                });
                let requests = stream::iter([first])
                    .chain(rest)
                    .map(|request| Request::Append(request).encode());
                match tokio::time::timeout(stall_max, network.stream(to, Box::pin(requests))).await {
                    Ok(Ok(answers)) => next_answer(answers, outstanding, stall_max).await,
                    Ok(Err(error)) => Some((Err(rpc_error(error)), Self::Ended)),
                    Err(_) => Some((Err(stalled()), Self::Ended)),
                }
            }
            Self::Open { answers, outstanding } => next_answer(answers, outstanding, stall_max).await,
            Self::Ended => None,
        }
    }
}

/// The next answer; an error is the last item. Standing still is an error only while something is owed, and owed for
/// all of the last half of `stall_max`: a request sent just before the look at the clock gets its full time.
async fn next_answer(
    mut answers: Answers,
    outstanding: Arc<AtomicUsize>,
    stall_max: Duration,
) -> Option<(Appended, Pipeline)> {
    let mut owed_before = false;
    let answer = loop {
        match tokio::time::timeout(stall_max / 2, answers.next()).await {
            Ok(answer) => break answer?,
            Err(_) if outstanding.load(Ordering::Acquire) == 0 => owed_before = false,
            Err(_) if owed_before => return Some((Err(stalled()), Pipeline::Ended)),
            Err(_) => owed_before = true,
        }
    };
    outstanding.fetch_sub(1, Ordering::AcqRel);
    match answer {
        Ok(message) => match decode_append_response(&message) {
            Ok(result) if result.is_ok() => Some((Ok(result), Pipeline::Open { answers, outstanding })),
            // A conflict or a higher vote: openraft opens a new stream from elsewhere, or none.
            Ok(result) => Some((Ok(result), Pipeline::Ended)),
            Err(error) => Some((Err(RPCError::Unreachable(Unreachable::new(&error))), Pipeline::Ended)),
        },
        Err(error) => Some((Err(rpc_error(error)), Pipeline::Ended)),
    }
}

impl NetVote<Types> for PeerClient {
    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(
            Lane::Control,
            Request::Vote(request),
            option.soft_ttl(),
            decode_vote_response,
        )
        .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(
            Lane::Control,
            Request::PreVote(request),
            option.soft_ttl(),
            decode_vote_response,
        )
        .await
    }
}

impl NetSnapshot<Types> for PeerClient {
    type SnapshotData = bytes::Bytes;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let snapshot = encode_snapshot(self.to.group, &snapshot.meta, &snapshot.snapshot);
        let request = Request::Snapshot { vote, snapshot };
        let sending = self.call(
            Lane::Snapshot,
            request,
            self.limits.snapshot_max,
            decode_snapshot_response,
        );
        tokio::select! {
            sent = sending => sent.map_err(StreamingError::from),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}

impl NetTransferLeader<Types> for PeerClient {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        // The target waits for its log to be synced before it answers, up to an election timeout.
        let within = self.limits.stall_max;
        self.call(
            Lane::Control,
            Request::TransferLeader(request),
            within,
            decode_transfer_response,
        )
        .await
    }
}
