//! The way between nodes: Raft messages, forwarded batches, questions to live spans.
//!
//! Owns [`PeerTransport`], which implements `consensus`' [`PeerNetwork`], and [`accept::PeerDoor`], which answers. Two
//! connections per pair and direction, so that nothing large stands in front of a heartbeat:
//!
//! ```text
//! TCP ─► TLS 1.3, both sides show a certificate ([`tls`]) ─► hello: cluster, from, to ([`hello`]) ─► HTTP/2
//!   control:  Call    votes, heartbeats, transfers
//!   data:     Call    snapshots
//!             Append  entries, a stream each way per group
//!             Ask     whatever one node wants of another ([`question`])
//! ```
//! What always holds:
//! - a message reaches the node it was meant for or fails; a disk that came back empty is another node;
//! - connections are opened when there is something to send, and again when they broke, never in a tight loop: openraft
//!   and the askers wait between tries;
//! - a message that is too large, damaged or not understood is refused and has no effect.
//!
//! Not here: who is a member and who leads (ring and groups), what questions mean (`crate::node`).

pub mod accept;
pub mod address;
mod codec;
pub mod hello;
pub mod question;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod wires;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use consensus::{Lane, Peer, PeerError, PeerMessage, PeerNetwork};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use model::NodeId;
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use self::address::AddressBook;
use self::codec::{Parcel, Parcels, PartLimit, Raw};
use self::hello::{Answerer, ConnectionKind, Hello, HelloError};
use self::tls::{PeerTls, TlsError};
use self::wires::{Tcp, Wires};

const CALL: &str = "/vivace.peer.v1.Peer/Call";
const APPEND: &str = "/vivace.peer.v1.Peer/Append";
const ASK: &str = "/vivace.peer.v1.Peer/Ask";

/// A message of [`APPEND`]: the log reader caps a run of entries at 2 MiB or one entry.
const APPEND_BYTES_MAX: usize = consensus::ENTRY_BYTES_MAX + (2 << 20);
/// A message of [`CALL`] on the data connection; a snapshot of the ring is a few megabytes.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// A message on the control connection.
const CONTROL_BYTES_MAX: usize = 1 << 20;
/// A question or its answer: the largest sub-batch and what is around it.
pub const ASK_BYTES_MAX: usize = wire::frame::ENTRY_BODY_BYTES_MAX + (1 << 20);
/// One group's stream must not fill a connection that others share.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A peer that answers no ping for this long is gone, even if nothing else is under way.
const PING_AFTER: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A byte stream both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How peers are known to be peers.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all; one machine only.
    Plaintext,
    /// By certificate.
    Tls(Arc<PeerTls>),
}

/// Who this node is to its peers.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    pub node: NodeId,
    /// Where peers reach it.
    pub address: Arc<str>,
    /// The newest feature level this program understands.
    pub feature_level: u32,
}

/// Calls other nodes. Clones share connections.
#[derive(Debug, Clone)]
pub struct PeerTransport {
    inner: Arc<Inner>,
}

struct Inner {
    identity: PeerIdentity,
    security: Security,
    wires: Arc<dyn Wires>,
    connect_timeout: Duration,
    /// 0 until this node has joined or founded one.
    cluster: RwLock<u128>,
    switched_on: AtomicU32,
    book: AddressBook,
    links: Mutex<HashMap<NodeId, Link>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTransport")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The connections to one node; both lazy.
#[derive(Clone)]
struct Link {
    control: Channel,
    data: Channel,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the address of node {0} is not known")]
    NoAddress(NodeId),
    #[error("cannot reach {address}")]
    Io { address: Arc<str>, source: std::io::Error },
    #[error("{address}: {source}")]
    Tls { address: Arc<str>, source: TlsError },
    #[error("{address}: {source}")]
    Hello { address: Arc<str>, source: HelloError },
    #[error("{address} did not answer in time")]
    TimedOut { address: Arc<str> },
}

impl PeerTransport {
    /// No connection yet; they will be TCP.
    pub fn new(identity: PeerIdentity, cluster: u128, security: Security, connect_timeout: Duration) -> Self {
        Self::over(Arc::new(Tcp), identity, cluster, security, connect_timeout)
    }

    /// No connection yet.
    pub fn over(
        wires: Arc<dyn Wires>,
        identity: PeerIdentity,
        cluster: u128,
        security: Security,
        connect_timeout: Duration,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                identity,
                security,
                wires,
                connect_timeout,
                cluster: RwLock::new(cluster),
                switched_on: AtomicU32::new(0),
                book: AddressBook::default(),
                links: Mutex::default(),
            }),
        }
    }

    /// Where nodes live.
    pub fn book(&self) -> &AddressBook {
        &self.inner.book
    }

    /// Who this node is.
    pub fn identity(&self) -> &PeerIdentity {
        &self.inner.identity
    }

    /// The certificates in effect; `None` without TLS.
    pub fn tls(&self) -> Option<Arc<PeerTls>> {
        match &self.inner.security {
            Security::Plaintext => None,
            Security::Tls(tls) => Some(Arc::clone(tls)),
        }
    }

    /// The cluster this node belongs to; 0 for none.
    pub fn cluster(&self) -> u128 {
        *self.inner.cluster.read()
    }

    /// This node has founded or joined a cluster. It never changes to another one.
    pub fn belongs_to(&self, cluster: u128) {
        let mut known = self.inner.cluster.write();
        assert!(
            *known == 0 || *known == cluster,
            "a disk belongs to one cluster for life"
        );
        *known = cluster;
    }

    /// What the cluster has switched on; older programs are turned away.
    pub fn switched_on(&self, feature_level: u32) {
        self.inner.switched_on.store(feature_level, Ordering::Relaxed);
    }

    fn answerer(&self) -> Answerer {
        Answerer {
            cluster: self.cluster(),
            node: self.inner.identity.node,
            feature_level: self.inner.switched_on.load(Ordering::Relaxed),
        }
    }

    fn link(&self, node: NodeId) -> Link {
        let mut links = self.inner.links.lock();
        links
            .entry(node)
            .or_insert_with(|| Link {
                control: self.channel(node, ConnectionKind::Control),
                data: self.channel(node, ConnectionKind::Data),
            })
            .clone()
    }

    /// Closes the connections to nodes that are gone.
    pub fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        self.inner.links.lock().retain(|node, _| keep(*node));
        self.inner.book.retain(keep);
    }

    fn channel(&self, node: NodeId, kind: ConnectionKind) -> Channel {
        let this = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let this = this.clone();
            async move {
                let address = this.inner.book.address_of(node);
                let address = address.ok_or(ConnectError::NoAddress(node))?;
                let (stream, _) = this.dial(&address, node, kind).await?;
                Ok::<_, ConnectError>(TokioIo::new(stream))
            }
        });
        endpoint().connect_with_connector_lazy(connector)
    }

    /// Connects to whoever lives at `address` (when `to` is 0) or to nobody but `to`.
    async fn dial(
        &self,
        address: &Arc<str>,
        to: NodeId,
        kind: ConnectionKind,
    ) -> Result<(Box<dyn Duplex>, Answerer), ConnectError> {
        let inner = &*self.inner;
        let named = || Arc::clone(address);
        let hello = Hello {
            kind,
            cluster: self.cluster(),
            from: inner.identity.node,
            to,
            feature_level: inner.identity.feature_level,
            address: Arc::clone(&inner.identity.address),
        };
        let connecting = async {
            let socket = inner.wires.connect(named()).await;
            let socket = socket.map_err(|source| ConnectError::Io {
                address: named(),
                source,
            })?;
            let mut stream: Box<dyn Duplex> = match &inner.security {
                Security::Plaintext => socket,
                Security::Tls(tls) => tls.connect(socket).await.map_err(|source| ConnectError::Tls {
                    address: named(),
                    source,
                })?,
            };
            let them = hello::call(&mut stream, &hello).await;
            let them = them.map_err(|source| ConnectError::Hello {
                address: named(),
                source,
            })?;
            Ok((stream, them))
        };
        let connected = tokio::time::timeout(inner.connect_timeout, connecting).await;
        connected.map_err(|_| ConnectError::TimedOut { address: named() })?
    }

    /// Asks whoever lives at `address` who it is; for joining, when no node is known by id yet.
    pub async fn who_is_at(&self, address: &Arc<str>) -> Result<Answerer, ConnectError> {
        let (_, them) = self.dial(address, NodeId(0), ConnectionKind::Data).await?;
        if them.node != self.inner.identity.node {
            self.inner.book.hear(them.node, address);
        }
        Ok(them)
    }

    /// Sends a question and waits for its answer, at most `within`.
    ///
    /// Cancel: the question may have been answered, and had its effect, all the same.
    pub async fn ask(&self, to: NodeId, question: Bytes, within: Duration) -> Result<Bytes, PeerError> {
        let channel = self.link(to).data;
        let asking = async move {
            let mut client = client(channel, ASK_BYTES_MAX).await?;
            let answer = client
                .unary(Request::new(question), PathAndQuery::from_static(ASK), Raw)
                .await?;
            Ok(answer.into_inner())
        };
        in_time(asking, within).await
    }
}

fn endpoint() -> Endpoint {
    // The connector knows where; the name only fills the header.
    Endpoint::from_static("http://peer")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
}

async fn client(channel: Channel, bytes_max: usize) -> Result<Grpc<Channel>, Status> {
    let mut client = Grpc::new(channel)
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max);
    client
        .ready()
        .await
        .map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(client)
}

async fn in_time<T>(work: impl Future<Output = Result<T, Status>>, within: Duration) -> Result<T, PeerError> {
    match tokio::time::timeout(within, work).await {
        Ok(done) => done.map_err(peer_error),
        Err(_) => Err(PeerError::Unreachable("no answer in time".into())),
    }
}

/// What a failed call means to whoever made it.
fn peer_error(status: Status) -> PeerError {
    match status.code() {
        // No connection; tonic also says so when one broke before the request was sent.
        Code::Unavailable | Code::DeadlineExceeded => PeerError::Unreachable(Box::new(status)),
        Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::DataLoss
        | Code::NotFound
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::ResourceExhausted => PeerError::Refused(Box::new(status)),
        _ => PeerError::Broken(Box::new(status)),
    }
}

impl PeerNetwork for PeerTransport {
    fn call(
        &self,
        to: Peer,
        lane: Lane,
        request: PeerMessage,
        within: Duration,
    ) -> BoxFuture<'static, Result<PeerMessage, PeerError>> {
        let link = self.link(to.node);
        let (channel, bytes_max) = match lane {
            Lane::Control => (link.control, CONTROL_BYTES_MAX),
            Lane::Entries => (link.data, APPEND_BYTES_MAX),
            Lane::Snapshot => (link.data, SNAPSHOT_BYTES_MAX),
        };
        let parcel = Parcel {
            group: to.group,
            message: request,
        };
        let calling = async move {
            let mut client = client(channel, bytes_max).await?;
            let path = PathAndQuery::from_static(CALL);
            let answer = client
                .unary(Request::new(parcel), path, Parcels(PartLimit::Whole))
                .await?;
            Ok(answer.into_inner().message)
        };
        in_time(calling, within).boxed()
    }

    fn stream(
        &self,
        to: Peer,
        requests: BoxStream<'static, PeerMessage>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<PeerMessage, PeerError>>, PeerError>> {
        let channel = self.link(to.node).data;
        let parcels = requests.map(move |message| Parcel {
            group: to.group,
            message,
        });
        async move {
            let mut client = client(channel, APPEND_BYTES_MAX).await.map_err(peer_error)?;
            let path = PathAndQuery::from_static(APPEND);
            let answers = client.streaming(Request::new(parcels), path, Parcels(PartLimit::Entries));
            let answers = answers.await.map_err(peer_error)?.into_inner();
            let answers = answers.map(|answer| answer.map(|parcel| parcel.message).map_err(peer_error));
            Ok(answers.boxed())
        }
        .boxed()
    }
}
