//! What peers ask of this member.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, SnapshotResponse};
use parking_lot::Mutex;
use wal::{Level, Space, WalError};

use super::Core;
use crate::codec::decode_snapshot;
use crate::codec::wire::{
    PeerMessage, Request, encode_append_response, encode_snapshot_response, encode_transfer_response,
    encode_vote_response,
};
use crate::error::Source;
use crate::log_store::{entry_bytes, space_for};
use crate::network::PeerError;
use crate::raft::{LeaderId, Types, Vote};

/// How often a full queue of the log is looked at again; it drains at the speed of the disk.
const ROOM_RETRY: Duration = Duration::from_millis(5);
/// For one second in all, well within what the leader waits for an answer.
const ROOM_TRIES: u32 = 200;

type Snapshot = openraft::Snapshot<LeaderId, u64, openraft::EmptyNode, Bytes>;

impl Core {
    /// Answers one message.
    pub(crate) async fn answer(&self, message: PeerMessage) -> Result<PeerMessage, PeerError> {
        let refused = |error: Source| PeerError::Refused(error);
        match Request::decode(&message).map_err(|error| refused(error.into()))? {
            Request::Vote(request) => {
                let response = self.raft.vote(request).await.map_err(|error| refused(error.into()))?;
                Ok(encode_vote_response(&response))
            }
            Request::PreVote(request) => {
                let response = self
                    .raft
                    .pre_vote(request)
                    .await
                    .map_err(|error| refused(error.into()))?;
                Ok(encode_vote_response(&response))
            }
            Request::Append(request) => {
                self.make_room(&request).await?;
                let previous = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(previous);
                let response = self
                    .raft
                    .append_entries(request)
                    .await
                    .map_err(|error| refused(error.into()))?;
                Ok(encode_append_response(&response.into_stream_result(previous, last)))
            }
            Request::Snapshot { vote, snapshot } => {
                let (meta, snapshot) = decode_snapshot(self.id, &snapshot).map_err(|error| refused(error.into()))?;
                let installed = self.install(vote, Snapshot { meta, snapshot }).await?;
                Ok(encode_snapshot_response(&installed))
            }
            Request::TransferLeader(request) => {
                let response = self.raft.handle_transfer_leader(request).await;
                Ok(encode_transfer_response(
                    &response.map_err(|error| refused(error.into()))?,
                ))
            }
        }
    }

    /// Answers a stream of appends in order, many of them under way at once. Ends with its input, or after an error.
    pub(crate) fn answer_stream(
        self: &Arc<Self>,
        messages: BoxStream<'static, PeerMessage>,
    ) -> BoxStream<'static, Result<PeerMessage, PeerError>> {
        let bad = Arc::new(Mutex::new(None::<PeerError>));
        let found = bad.clone();
        let this = self.clone();
        let requests = messages
            .then(move |message| {
                let this = this.clone();
                async move {
                    match Request::decode(&message) {
                        Ok(Request::Append(request)) => this.make_room(&request).await.map(|()| request),
                        Ok(_) => Err(PeerError::Refused("only appends come in streams".into())),
                        Err(error) => Err(PeerError::Refused(error.into())),
                    }
                }
            })
            .scan(found, |found, request| {
                let request = request.map_err(|error| *found.lock() = Some(error)).ok();
                futures::future::ready(request)
            });
        let answers = self.raft.stream_append(requests).map(|answer| match answer {
            Ok(result) => Ok(encode_append_response(&result)),
            Err(fatal) => Err(PeerError::Refused(fatal.into())),
        });
        // What could not be taken ends the requests and is then said as the last answer.
        let last =
            stream::once(async move { bad.lock().take() }).filter_map(|bad| futures::future::ready(bad.map(Err)));
        Box::pin(answers.chain(last))
    }

    /// Puts a snapshot on disk, and then in the place of what the group holds.
    async fn install(&self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<Types>, PeerError> {
        let _one_at_a_time = self.receiving.lock().await;
        let (file, meta, state) = (self.snapshots.clone(), snapshot.meta.clone(), snapshot.snapshot.clone());
        let received = tokio::task::spawn_blocking(move || file.receive(&meta, &state)).await;
        let received = received.map_err(|error| PeerError::Refused(error.into()))?;
        received.map_err(|error| {
            tracing::warn!(group = %self.id, %error, "cannot take the leader's snapshot; it will come again");
            PeerError::Refused(error.into())
        })?;
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        self.snapshots.forget_received();
        installed.map_err(|error| PeerError::Refused(error.into()))
    }

    /// Waits until the log takes these entries without holding up its caller, and refuses them when it cannot.
    ///
    /// For openraft a refused append is the end of the group here; refused at the door, the leader tries again later.
    /// The door is open for longer than that of [`super::Group::propose`], so that what a leader has accepted finds room.
    async fn make_room(&self, request: &AppendEntriesRequest<Types>) -> Result<(), PeerError> {
        if request.entries.is_empty() || space_for(&request.entries) == Space::Reserved {
            return Ok(());
        }
        let bytes = request.entries.iter().map(entry_bytes).sum();
        for _ in 0..ROOM_TRIES {
            match self.wal.admit(bytes) {
                Err(WalError::Throttled { .. }) => tokio::time::sleep(ROOM_RETRY).await,
                Err(full @ WalError::Full { .. }) if self.wal.level() >= Level::ReservedOnly => {
                    return Err(PeerError::Refused(full.into()));
                }
                _ => return Ok(()),
            }
        }
        Err(PeerError::Refused("the log is busy".into()))
    }
}
