//! What peers ask of this member.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use openraft::Snapshot;
use parking_lot::Mutex;

use super::Core;
use crate::codec::decode_snapshot;
use crate::codec::wire::{
    PeerMessage, Request, encode_append_response, encode_snapshot_response, encode_transfer_response,
    encode_vote_response,
};
use crate::error::Source;
use crate::network::PeerError;

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
                let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
                Ok(encode_snapshot_response(
                    &installed.map_err(|error| refused(error.into()))?,
                ))
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
        &self,
        messages: BoxStream<'static, PeerMessage>,
    ) -> BoxStream<'static, Result<PeerMessage, PeerError>> {
        let bad = Arc::new(Mutex::new(None::<PeerError>));
        let found = bad.clone();
        let requests = messages
            .map(|message| match Request::decode(&message) {
                Ok(Request::Append(request)) => Ok(request),
                Ok(_) => Err(PeerError::Refused("only appends come in streams".into())),
                Err(error) => Err(PeerError::Refused(error.into())),
            })
            .scan(found, |found, request| {
                let request = request.map_err(|error| *found.lock() = Some(error)).ok();
                futures::future::ready(request)
            });
        let answers = self.raft.stream_append(requests).map(|answer| match answer {
            Ok(result) => Ok(encode_append_response(&result)),
            Err(fatal) => Err(PeerError::Refused(fatal.into())),
        });
        // What could not be decoded ends the requests and is then said as the last answer.
        let last =
            stream::once(async move { bad.lock().take() }).filter_map(|bad| futures::future::ready(bad.map(Err)));
        Box::pin(answers.chain(last))
    }
}
