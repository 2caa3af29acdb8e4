//! Sockets: binding, accepting, connection limits, and the slow way out.
//!
//! Owns [`Listener`] and [`serve`]. One accept loop per address; connections of all of them share one cap. Each
//! connection is a task of the tracker that `serve` was given, so somebody always waits for it.
//!
//! What always holds:
//! - a connection whose first request head has not arrived after the header timeout is closed (slow loris, half-open
//!   peers, port scanners), and so is one whose later heads take longer than that from their first byte on ([`heads`]);
//! - an idle connection of HTTP/1 is kept for [`IDLE_TIMEOUT`], one of HTTP/2 as long as it answers pings;
//! - HTTP/2 resets are capped, so that a flood of opened and reset streams (CVE-2023-44487) closes the connection;
//! - when the token is cancelled no new connection is taken, requests in flight end, idle connections close.

mod heads;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use settings::listen::ListenSettings;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use heads::{Answering, Requests, Watched, too_large};

/// How long an HTTP/1 connection may be idle between requests. Longer than the minute that load balancers keep theirs,
/// so that we are not the one who closes while a request is on its way.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Peers of HTTP/2 that do not answer a ping sent after this much silence are gone.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Headers of one request of HTTP/1, whose parser has room for so many. Its request line has hyper's limit, 65,534 bytes.
const HEADERS_MAX: usize = 128;
/// Bytes of all headers of one request of HTTP/2 as RFC 9113 (6.5.2) counts them: names, values, and 32 for each.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// What h2 reads. Beyond it h2 itself answers 431 and nothing else; up to it we say why.
const HEADER_BYTES_READ_MAX: u32 = 2 * HEADER_BYTES_MAX as u32;
/// Receive windows of HTTP/2: a batch of 300 spans fits in a stream's, eight such in a connection's.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Larger than h2's 16 KiB so that a batch arrives in one or few frames, which saves copying it together.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Streams that a peer may reset before we have taken them up.
const RESETS_MAX: usize = 64;
/// After `accept` failed (no file descriptors left) it fails again at once; give connections time to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket and its real address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge alone.
    Http2,
    /// HTTP/1.1 or HTTP/2 with prior knowledge, told apart by the first bytes.
    Http1And2,
}

/// Limits that all listeners of a node share.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    slots: Arc<Semaphore>,
    slots_max: usize,
    header_timeout: Duration,
    streams_max: u32,
    refused: crate::metrics::Count,
}

impl ConnectionLimits {
    pub fn new(listen: &ListenSettings, refused: crate::metrics::Count) -> Self {
        let slots_max = usize::try_from(listen.connections_max)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self {
            slots: Arc::new(Semaphore::new(slots_max)),
            slots_max,
            header_timeout: listen.header_timeout.duration(),
            streams_max: listen.http2_streams_max,
            refused,
        }
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.slots_max - self.slots.available_permits()
    }
}

/// Accepts until `stop` is cancelled. Connections go on afterwards as tasks of `tasks` until their requests are served.
pub async fn serve<S, F, B>(
    listener: Listener,
    protocol: Protocol,
    limits: ConnectionLimits,
    service: S,
    stop: CancellationToken,
    tasks: TaskTracker,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let http = builder(protocol, &limits);
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(address = %listener.address, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&limits.slots).try_acquire_owned() else {
            limits.refused.inc();
            continue;
        };
        // Acks are small and somebody waits for each of them.
        let _ = stream.set_nodelay(true);
        let connection = connection(
            http.clone(),
            stream,
            limits.header_timeout,
            service.clone(),
            stop.clone(),
        );
        tasks.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
}

/// One connection to its end. Errors of the peer end it and are not ours to report.
async fn connection<I, S, F, B>(
    http: auto::Builder<TokioExecutor>,
    stream: I,
    header_timeout: Duration,
    service: S,
    stop: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let requests = Arc::new(Requests::default());
    let service = service_fn(|request: Request<Incoming>| {
        let open = requests.begin();
        let refused = too_large(&request);
        let answer = refused.is_none().then(|| service(request));
        async move {
            let answer = match answer {
                Some(answer) => answer.await.map(Either::Left),
                None => refused.unwrap_or_default().map(|text| Either::Right(Full::from(text))),
            };
            Ok::<_, Infallible>(answer.map(|body| Answering { body, _request: open }))
        }
    });
    let stream = Watched::new(stream, Arc::clone(&requests), header_timeout);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = served.as_mut() => return,
        () = tokio::time::sleep(header_timeout) => {}
        () = stop.cancelled() => {}
    }
    if !stop.is_cancelled() {
        if requests.heads() == 0 {
            return;
        }
        tokio::select! {
            _ = served.as_mut() => return,
            () = stop.cancelled() => {}
        }
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

fn builder(protocol: Protocol, limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_headers(HEADERS_MAX);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_READ_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT);
    match protocol {
        Protocol::Http2 => http.http2_only(),
        Protocol::Http1And2 => http,
    }
}

#[cfg(test)]
mod tests;
