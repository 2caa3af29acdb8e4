//! The door for peers: accepts, checks who it is, answers.
//!
//! | task | owns | born | dies |
//! |---|---|---|---|
//! | accept loop | the listener | [`PeerDoor::serve`] | stop token |
//! | one per connection | its socket | accept | peer closes; after stop, when its calls have ended |
//!
//! What always holds: nothing is read from a connection beyond its hello before certificate, cluster and node id are
//! right; a refused one is closed at once, counted, and said in the log.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Groups, PeerError, PeerMessage};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Request, Status, Streaming};

use super::codec::{Parcel, Parcels, PartLimit, Raw};
use super::hello::{self, ConnectionKind, Hello, HelloError};
use super::tls::TlsError;
use super::wires::Doorway;
use super::{
    APPEND, APPEND_BYTES_MAX, ASK, ASK_BYTES_MAX, CALL, CONNECTION_WINDOW, CONTROL_BYTES_MAX, Duplex, FRAME_BYTES_MAX,
    PING_AFTER, PING_TIMEOUT, PeerTransport, SNAPSHOT_BYTES_MAX, STREAM_WINDOW, Security,
};

/// Two from each of a thousand nodes, twice over for those that reconnect.
pub const CONNECTIONS_MAX: usize = 4_000;
/// Calls of one connection at once: every group of a node may stream, and questions come on top.
const STREAMS_MAX: u32 = 4_096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers questions that are not Raft's.
pub trait Desk: Send + Sync + 'static {
    /// Answers `question`, which `caller` asks. Bytes both ways, see [`super::question`].
    ///
    /// Errors: what the caller's transport makes a refusal of.
    fn answer(&self, caller: Arc<Hello>, question: Bytes) -> BoxFuture<'static, Result<Bytes, Status>>;
}

/// Answers peers on one port.
#[derive(Clone)]
pub struct PeerDoor {
    transport: PeerTransport,
    groups: Groups,
    desk: Arc<dyn Desk>,
    connections_max: usize,
}

impl std::fmt::Debug for PeerDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerDoor")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
enum Turned {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("did not say who it is in time")]
    Late,
}

impl PeerDoor {
    pub fn new(transport: PeerTransport, groups: Groups, desk: Arc<dyn Desk>) -> Self {
        Self {
            transport,
            groups,
            desk,
            connections_max: CONNECTIONS_MAX,
        }
    }

    /// Accepts until `stop` is cancelled. Connections are tasks of `tasks`.
    pub async fn serve(self, mut listener: Box<dyn Doorway>, stop: CancellationToken, tasks: TaskTracker) {
        if let Security::Tls(tls) = &self.transport.inner.security {
            tasks.spawn(super::tls::watch(Arc::clone(tls), stop.clone()));
        }
        let slots = Arc::new(Semaphore::new(self.connections_max));
        loop {
            let (socket, from) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a peer's connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!("too many connections of peers; one was closed");
                continue;
            };
            let (this, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                this.connection(socket, from, stop).await;
                drop(slot);
            });
        }
    }

    async fn connection(self, socket: Box<dyn Duplex>, from: Option<SocketAddr>, stop: CancellationToken) {
        let limit = self.transport.inner.connect_timeout;
        let meeting = tokio::time::timeout(limit, self.meet(socket)).await;
        let (stream, caller) = match meeting.unwrap_or(Err(Turned::Late)) {
            Ok(met) => met,
            Err(Turned::Hello(HelloError::Io(_))) => return,
            Err(turned) => {
                tracing::warn!(?from, reason = %turned, "turned a connection away");
                return;
            }
        };
        self.transport.book().hear(caller.from, &caller.address);
        let caller = Arc::new(caller);
        let service = service_fn(move |request| {
            let (this, caller) = (self.clone(), Arc::clone(&caller));
            async move { Ok::<_, Infallible>(this.route(caller, request).await) }
        });
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES_MAX)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT);
        let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = served.as_mut() => return,
            () = stop.cancelled() => {}
        }
        // Streams of entries have no end of their own: what is under way is answered or not, as in a crash.
        served.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(Duration::from_secs(1), served).await;
    }

    async fn meet(&self, socket: Box<dyn Duplex>) -> Result<(Box<dyn Duplex>, Hello), Turned> {
        let mut stream: Box<dyn Duplex> = match &self.transport.inner.security {
            Security::Plaintext => socket,
            Security::Tls(tls) => tls.accept(socket).await?,
        };
        let caller = hello::answer(&mut stream, self.transport.answerer()).await?;
        Ok((stream, caller))
    }

    async fn route(self, caller: Arc<Hello>, request: http::Request<Incoming>) -> Response<Body> {
        match (request.uri().path(), caller.kind) {
            (CALL, kind) => {
                let bytes_max = match kind {
                    ConnectionKind::Control => CONTROL_BYTES_MAX,
                    ConnectionKind::Data => SNAPSHOT_BYTES_MAX,
                };
                let groups = self.groups;
                let call = tower::service_fn(move |request: Request<Parcel>| {
                    let (groups, parcel) = (groups.clone(), request.into_inner());
                    async move {
                        let message = groups.answer(parcel.group, parcel.message).await.map_err(status_of)?;
                        Ok::<_, Status>(tonic::Response::new(Parcel {
                            group: parcel.group,
                            message,
                        }))
                    }
                });
                let mut grpc = Grpc::new(Parcels(PartLimit::Whole))
                    .max_decoding_message_size(bytes_max)
                    .max_encoding_message_size(bytes_max);
                grpc.unary(call, request).await
            }
            (APPEND, ConnectionKind::Data) => {
                let groups = self.groups;
                let append = tower::service_fn(move |request: Request<Streaming<Parcel>>| {
                    let groups = groups.clone();
                    async move {
                        let answers = append(groups, request.into_inner()).await?;
                        Ok::<_, Status>(tonic::Response::new(answers))
                    }
                });
                let mut grpc = Grpc::new(Parcels(PartLimit::Entries))
                    .max_decoding_message_size(APPEND_BYTES_MAX)
                    .max_encoding_message_size(APPEND_BYTES_MAX);
                grpc.streaming(append, request).await
            }
            (ASK, ConnectionKind::Data) => {
                let desk = self.desk;
                let ask = tower::service_fn(move |request: Request<Bytes>| {
                    let answer = desk.answer(Arc::clone(&caller), request.into_inner());
                    async move { Ok::<_, Status>(tonic::Response::new(answer.await?)) }
                });
                let mut grpc = Grpc::new(Raw)
                    .max_decoding_message_size(ASK_BYTES_MAX)
                    .max_encoding_message_size(ASK_BYTES_MAX);
                grpc.unary(ask, request).await
            }
            _ => Status::unimplemented("no such call between nodes").into_http(),
        }
    }
}

/// Answers a stream of appends to one group. What cannot be read ends it and is said as its last answer.
async fn append(
    groups: Groups,
    mut parcels: Streaming<Parcel>,
) -> Result<BoxStream<'static, Result<Parcel, Status>>, Status> {
    let Some(Parcel { group, message }) = parcels.message().await? else {
        return Ok(stream::empty().boxed());
    };
    let bad = Arc::new(Mutex::new(None));
    let found = Arc::clone(&bad);
    let rest = parcels
        .map(move |parcel| match parcel {
            Ok(parcel) if parcel.group == group => Some(parcel.message),
            Ok(_) => {
                *found.lock() = Some(Status::invalid_argument("a stream is for one group"));
                None
            }
            Err(status) => {
                *found.lock() = Some(status);
                None
            }
        })
        .take_while(|message| futures::future::ready(message.is_some()))
        .filter_map(futures::future::ready);
    let messages: BoxStream<'static, PeerMessage> = stream::iter([message]).chain(rest).boxed();
    let answers = groups.answer_stream(group, messages).map_err(status_of)?;
    let answers = answers.map(move |answer| match answer {
        Ok(message) => Ok(Parcel { group, message }),
        Err(error) => Err(status_of(error)),
    });
    let last = stream::once(async move { bad.lock().take() }).filter_map(|bad| futures::future::ready(bad.map(Err)));
    Ok(answers.chain(last).boxed())
}

fn status_of(error: PeerError) -> Status {
    let (code, source) = match &error {
        PeerError::Unreachable(source) => (Code::Unavailable, source),
        PeerError::Broken(source) => (Code::Aborted, source),
        PeerError::Refused(source) => (Code::FailedPrecondition, source),
    };
    Status::new(code, format!("{error}: {source}"))
}
