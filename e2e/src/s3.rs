//! An S3-compatible object store in this process, and every way for it to misbehave.
//!
//! [`S3Server::start`] binds a loopback port and serves [`Memory`] through s3s (SigV4, XML, chunked uploads are its
//! work). [`Toxics`] stands in front and breaks requests by rule; [`Traffic`] counts them. The same server is a binary,
//! `s3-server`, for suites that run it in a cluster.
//!
//! Always holds: an operation that a toxic did not strike behaves as S3 documents; [`Traffic`] has noted a request before
//! its answer's first byte leaves.

mod keys;
mod memory;
mod toxics;
mod traffic;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3CopyIfNotExists};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use keys::Keys;
pub use memory::{Conditions, Memory, Rules, StoredObject};
pub use toxics::{Availability, Rule, Toxic, Toxics};
pub use traffic::{Counts, Op, Seen, Traffic};

/// The key pair that the server knows unless told otherwise.
pub const ACCESS_KEY: &str = "vivace-access-key";
/// See [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "vivace-secret-key";
/// S3 clients insist on one; the server takes any.
pub const REGION: &str = "us-east-1";

/// Bodies under a bandwidth toxic leave in pieces of this size, so that a slow body is slow from its first byte on.
const SLOW_PIECE_BYTES: usize = 16 << 10;

/// Long enough for a socket on loopback to take what was written.
const BREAK_OFF_AFTER: Duration = Duration::from_millis(20);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Which cloud's words the server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Amazon's, signed.
    S3,
    /// Google's XML API, which is Amazon's with other headers and generations instead of ETags; nobody is turned away.
    /// Unlike fake-gcs-server, which does not take plain XML PUTs, it needs nobody to interpret for it.
    Gcs,
}

/// What to serve and where.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Buckets that exist from the start.
    pub buckets: Vec<String>,
    /// The key pair that is let in, until [`S3Server::change_keys`].
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// S3's limits.
    pub rules: Rules,
    /// For the toxics' draws.
    pub seed: u64,
    /// Whose words.
    pub dialect: Dialect,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            buckets: vec!["traces".to_owned()],
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            rules: Rules::default(),
            seed: 0,
            dialect: Dialect::S3,
        }
    }
}

/// A running server; dropping it closes the socket and every connection.
#[derive(Debug)]
pub struct S3Server {
    addr: SocketAddr,
    options: S3Options,
    keys: Keys,
    memory: Memory,
    toxics: Toxics,
    traffic: Traffic,
    acceptor: JoinHandle<()>,
}

impl S3Server {
    /// Binds and serves until dropped.
    pub async fn start(options: S3Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let buckets: Vec<&str> = options.buckets.iter().map(String::as_str).collect();
        let memory = Memory::new(&buckets, options.rules);
        let keys = Keys::new(&options.access_key, &options.secret_key);
        let mut builder = S3ServiceBuilder::new(memory.clone());
        if options.dialect == Dialect::S3 {
            builder.set_auth(keys.clone());
        }
        let front = Front {
            dialect: options.dialect,
            service: builder.build(),
            toxics: Toxics::new(options.seed),
            traffic: Traffic::default(),
        };
        let (toxics, traffic) = (front.toxics.clone(), front.traffic.clone());
        let acceptor = tokio::spawn(accept(addr, listener, front));
        Ok(Self {
            addr,
            options,
            keys,
            memory,
            toxics,
            traffic,
            acceptor,
        })
    }

    /// `http://127.0.0.1:PORT`, for path-style requests.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The first bucket's name.
    pub fn bucket(&self) -> &str {
        self.options.buckets.first().map_or("", String::as_str)
    }

    /// Whose words it understands.
    pub fn dialect(&self) -> Dialect {
        self.options.dialect
    }

    /// The content, past HTTP and toxics.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The handle to break and heal it.
    pub fn toxics(&self) -> &Toxics {
        &self.toxics
    }

    /// Lets in this key pair instead of the former one, whose requests are answered 403 from now on.
    pub fn change_keys(&self, access_key: &str, secret_key: &str) {
        self.keys.replace(access_key, secret_key);
    }

    /// What it was asked.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Waits until the socket is open, or closed, as [`Toxics::set_availability`] asked.
    pub async fn reachable(&self, wanted: bool) {
        while tokio::net::TcpStream::connect(self.addr).await.is_ok() != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A client with the keys of the start for the first bucket.
    pub fn client(&self) -> AmazonS3Builder {
        client_builder(
            &self.endpoint(),
            self.bucket(),
            &self.options.access_key,
            &self.options.secret_key,
        )
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // The acceptor owns the connections, which end with it.
        self.acceptor.abort();
    }
}

/// An object_store client for any path-style S3 endpoint on plain HTTP.
pub fn client_builder(endpoint: &str, bucket: &str, access_key: &str, secret_key: &str) -> AmazonS3Builder {
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region(REGION)
        .with_access_key_id(access_key)
        .with_secret_access_key(secret_key)
        .with_allow_http(true)
        .with_virtual_hosted_style_request(false)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
}

/// The plain client of [`S3Server::client`].
pub fn build(builder: AmazonS3Builder) -> AmazonS3 {
    builder.build().expect("the settings are complete")
}

#[derive(Debug, Clone)]
struct Front {
    dialect: Dialect,
    service: S3Service,
    toxics: Toxics,
    traffic: Traffic,
}

/// Owns the listener and the connections; follows [`Availability`].
async fn accept(addr: SocketAddr, listener: TcpListener, front: Front) {
    let mut availability = front.toxics.watch();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refusing = *availability.borrow_and_update() == Availability::Refusing;
        if refusing {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = TcpListener::bind(addr).await.ok();
        }
        let Some(open) = &listener else {
            // Either closed on purpose, or the port is not free yet: look again soon.
            tokio::select! {
                changed = availability.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            continue;
        };
        tokio::select! {
            changed = availability.changed() => if changed.is_err() { return },
            accepted = open.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let front = front.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(front.clone(), request));
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // An error here is the client's going away, or a toxic closing the connection.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Carries one request through its fate. An error closes the connection without an answer.
async fn serve(front: Front, mut request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    if front.dialect == Dialect::Gcs {
        from_google(&mut request);
    }
    let (op, key) = traffic::classify(request.method(), request.uri(), request.headers());
    let range = request
        .headers()
        .get(http::header::RANGE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let bytes_in = body_bytes(request.headers());
    let note = |status: Option<u16>, bytes_out: u64| {
        front.traffic.note(
            Seen {
                op,
                key: key.clone(),
                range: range.clone(),
                status,
                bytes_out,
            },
            bytes_in,
        );
    };

    if front.toxics.availability() == Availability::Unavailable {
        note(Some(503), 0);
        return Ok(refusal(503, "ServiceUnavailable"));
    }
    let fate = front.toxics.decide(op, &key);
    tokio::time::sleep(fate.delay).await;
    if fate.drop_request {
        note(None, 0);
        return Err("closed by a toxic before the request was read".into());
    }
    if let Some((status, code)) = &fate.fail {
        note(Some(*status), 0);
        return Ok(refusal(*status, code));
    }
    if let Some(bytes_per_s) = fate.bytes_per_s {
        tokio::time::sleep(time_for(bytes_in, bytes_per_s)).await;
    }
    if fate.stale_by > 0 {
        request.extensions_mut().insert(memory::StaleBy(fate.stale_by));
    }

    let request = request.map(s3s::Body::from);
    let response = front
        .service
        .call(request)
        .await
        .map_err(|error| -> BoxError { error.into() })?;
    let (head, body) = response.into_parts();
    if fate.drop_reply {
        note(None, 0);
        return Err("closed by a toxic after the request was carried out".into());
    }
    // A HEAD announces a length without having a body.
    let bytes_out = if op == Op::Head { 0 } else { body_bytes(&head.headers) };
    note(Some(head.status.as_u16()), bytes_out);

    let is_object = op == Op::Get && head.status.is_success();
    if is_object && (fate.flip.is_some() || fate.keep_percent.is_some()) {
        let mut data = BodyExt::collect(body).await?.to_bytes().to_vec();
        if let Some(draw) = fate.flip
            && !data.is_empty()
        {
            let bit = draw % (data.len() as u64 * 8);
            data[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        let cut = fate.keep_percent.map(|percent| data.len() * usize::from(percent) / 100);
        data.truncate(cut.unwrap_or(data.len()));
        return Ok(Response::from_parts(
            head,
            paced(data.into(), fate.bytes_per_s, cut.is_some()),
        ));
    }
    if let Some(bytes_per_s) = fate.bytes_per_s {
        let data = BodyExt::collect(body).await?.to_bytes();
        return Ok(Response::from_parts(head, paced(data, Some(bytes_per_s), false)));
    }
    Ok(Response::from_parts(head, body.map_err(BoxError::from).boxed_unsync()))
}

/// Says in Amazon's headers what a request says in Google's.
fn from_google<B>(request: &mut Request<B>) {
    let headers = request.headers_mut();
    headers.remove(http::header::AUTHORIZATION);
    if let Some(source) = headers.remove("x-goog-copy-source") {
        headers.insert("x-amz-copy-source", source);
    }
    let wanted = headers.remove("x-goog-if-generation-match");
    let generation = wanted.and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(generation) = generation {
        request.extensions_mut().insert(memory::IfGeneration(generation));
    }
}

/// A body that leaves at a pace and, if told to, breaks off at its end instead of finishing.
fn paced(data: Bytes, bytes_per_s: Option<u64>, break_off: bool) -> Body {
    let piece = if bytes_per_s.is_some() {
        SLOW_PIECE_BYTES
    } else {
        data.len().max(1)
    };
    let pieces: Vec<Bytes> = (0..data.len())
        .step_by(piece)
        .map(|at| data.slice(at..data.len().min(at + piece)))
        .collect();
    let frames = futures::stream::iter(pieces).then(move |piece| async move {
        if let Some(bytes_per_s) = bytes_per_s {
            tokio::time::sleep(time_for(piece.len() as u64, bytes_per_s)).await;
        }
        Ok::<_, BoxError>(Frame::data(piece))
    });
    let end = futures::stream::iter(break_off.then_some(())).then(async |()| {
        // Without a pause the connection would be closed before what is already due has left.
        tokio::time::sleep(BREAK_OFF_AFTER).await;
        Err(BoxError::from("cut by a toxic"))
    });
    StreamBody::new(frames.chain(end)).boxed_unsync()
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>asked for by a toxic</Message></Error>"
    );
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let body = Full::new(Bytes::from(text))
        .map_err(|never: Infallible| match never {})
        .boxed_unsync();
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/xml")
        .body(body);
    response.unwrap_or_else(|_| Response::new(Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()))
}

fn body_bytes(headers: &http::HeaderMap) -> u64 {
    let text = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn time_for(bytes: u64, bytes_per_s: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / bytes_per_s.max(1))
}
