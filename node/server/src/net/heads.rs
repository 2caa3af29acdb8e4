//! Heads of requests that begin and do not end, seen from the socket: every one of a connection, not only its first.
//!
//! hyper measures the head of an HTTP/1 request together with the silence before it, and the heads of HTTP/2 not at all.
//! [`Watched`] stands between hyper and the socket, knows whether what has come so far is half a head ([`Heads`], pure), and
//! closes the connection when it stays so for longer than the header timeout. An idle connection has nothing half.
//!
//! It also gives hyper's own refusals of HTTP/1 (400, 414 and 431, before there is a request to answer) the sentence that
//! all other errors have; hyper writes them without. For HTTP/2 there is [`too_large`], which answers before hyper would.
//!
//! Not here: how long a connection may be idle and bodies that trickle ([`super`], [`crate::body`]).

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::HEADER_BYTES_MAX;
use crate::refusal::{Kind, Refusal};

/// What RFC 9113 counts for a field beside its name and its value.
const FIELD_BYTES: usize = 32;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What the service tells the socket: heads that arrived whole, and requests that are not answered.
#[derive(Debug, Default)]
pub(super) struct Requests {
    heads: AtomicU64,
    open: AtomicUsize,
}

impl Requests {
    /// A head is whole; its request is open until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> OpenRequest {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    pub(super) fn heads(&self) -> u64 {
        self.heads.load(Ordering::Relaxed)
    }
}

/// A request that is being served.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Requests>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; with its end the request is answered.
#[derive(Debug)]
pub(super) struct Answering<B> {
    pub(super) body: B,
    pub(super) _request: OpenRequest,
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether what has arrived ends within a head.
#[derive(Debug)]
enum Heads {
    /// So many bytes as the preface of HTTP/2 has them.
    Unknown(usize),
    /// The number of the head whose first bytes are there.
    Http1 {
        begun: Option<u64>,
    },
    Http2(Frames),
}

impl Heads {
    /// Takes the next bytes of the connection.
    fn take(&mut self, mut bytes: &[u8], requests: &Requests) {
        if let Self::Unknown(matched) = self {
            let of_preface = bytes.len().min(PREFACE.len() - *matched);
            if bytes[..of_preface] == PREFACE[*matched..*matched + of_preface] {
                *matched += of_preface;
                if *matched < PREFACE.len() {
                    return;
                }
                bytes = &bytes[of_preface..];
                *self = Self::Http2(Frames::default());
            } else {
                *self = Self::Http1 { begun: None };
            }
        }
        match self {
            Self::Unknown(_) => {}
            // While a request is open it is its body, or the next one's head, which is looked at when it goes on.
            Self::Http1 { begun } => {
                if !bytes.is_empty() && requests.open.load(Ordering::Relaxed) == 0 {
                    *begun = Some(requests.heads());
                }
            }
            Self::Http2(frames) => frames.take(bytes),
        }
    }

    /// A number for the head that has begun and is not whole; another head has another number.
    fn unfinished(&self, requests: &Requests) -> Option<u64> {
        match self {
            // The first head of a connection has a limit of its own, which begins with the connection.
            Self::Unknown(_) => None,
            Self::Http1 { begun } => begun.filter(|number| *number == requests.heads()),
            Self::Http2(frames) => frames.unfinished(),
        }
    }
}

/// The frames of HTTP/2, as far as their borders go.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; FRAME_HEAD_BYTES],
    filled: usize,
    kind: u8,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// HEADERS came, and its end is in a CONTINUATION that has not.
    is_in_block: bool,
    /// Frames and blocks that are whole.
    whole: u64,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
            } else {
                let taken = (FRAME_HEAD_BYTES - self.filled).min(bytes.len());
                self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                self.filled += taken;
                bytes = &bytes[taken..];
                if self.filled < FRAME_HEAD_BYTES {
                    return;
                }
                self.filled = 0;
                let [high, middle, low, kind, flags, ..] = self.head;
                self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.kind = kind;
                if kind == HEADERS || kind == CONTINUATION {
                    self.is_in_block = flags & END_HEADERS == 0;
                }
            }
            if self.left == 0 && !self.is_in_block {
                self.whole += 1;
            }
        }
    }

    fn unfinished(&self) -> Option<u64> {
        // Half a DATA frame is a body that trickles, which its reader sees.
        let is_half = self.filled > 0 || (self.left > 0 && self.kind != DATA);
        (is_half || self.is_in_block).then_some(self.whole)
    }
}

/// A socket that fails when a head takes too long.
#[derive(Debug)]
pub(super) struct Watched<S> {
    socket: S,
    requests: Arc<Requests>,
    heads: Heads,
    header_timeout: Duration,
    /// The head that is waited for, and until when.
    waiting: Option<(u64, Pin<Box<Sleep>>)>,
    /// What is being written in the place of a refusal of hyper's, and how much of it is.
    refusal: Option<(Vec<u8>, usize)>,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S, requests: Arc<Requests>, header_timeout: Duration) -> Self {
        Self {
            socket,
            requests,
            heads: Heads::Unknown(0),
            header_timeout,
            waiting: None,
            refusal: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buffer);
        this.heads.take(&buffer.filled()[before..], &this.requests);
        let Some(number) = this.heads.unfinished(&this.requests) else {
            this.waiting = None;
            return read;
        };
        if this.waiting.as_ref().is_none_or(|(known, _)| *known != number) {
            this.waiting = Some((number, Box::pin(tokio::time::sleep(this.header_timeout))));
        }
        let is_over = match &mut this.waiting {
            Some((_, until)) => until.as_mut().poll(cx).is_ready(),
            None => false,
        };
        if is_over {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

/// The answer to a request of HTTP/2 whose headers are too many bytes. HTTP/1 has its limits in hyper's parser.
pub(super) fn too_large<B>(request: &Request<B>) -> Option<Response<Bytes>> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let fields = request.headers().iter();
    let bytes: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES)
        .sum();
    if bytes + path <= HEADER_BYTES_MAX {
        return None;
    }
    let refusal = Refusal::new(
        Kind::TooLarge,
        format!("the head of the request is too large: more than {HEADER_BYTES_MAX} bytes"),
    );
    let content_type = request.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return Some(crate::receiver::grpc::failure(&refusal).map(|_| Bytes::new()));
    }
    let mut response = Response::new(Bytes::from(refusal.message.into_owned()));
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    Some(response)
}

/// The answer to write in the place of `written`, if that is a refusal of hyper's own: a head without a body.
fn with_reason(written: &[u8]) -> Option<Vec<u8>> {
    let (status, reason) = [
        (
            "HTTP/1.1 400 ",
            "the request is not HTTP: its request line or a header cannot be read",
        ),
        ("HTTP/1.1 414 ", "the request line is longer than 65534 bytes"),
        (
            "HTTP/1.1 431 ",
            "the head of the request is too large: more than 128 headers, or too many bytes",
        ),
    ]
    .into_iter()
    .find(|(status, _)| written.starts_with(status.as_bytes()))?;
    let text = std::str::from_utf8(written).ok()?;
    let head = text
        .strip_suffix("\r\n\r\n")
        .filter(|head| !head.contains("\r\n\r\n"))?;
    let kept = head
        .split("\r\n")
        .filter(|line| !line.eq_ignore_ascii_case("content-length: 0"));
    let kept: Vec<_> = kept.collect();
    // An answer of the service has a length of its own.
    let is_bare = !kept.iter().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("content-length:")
            || line.starts_with("transfer-encoding:")
            || line.starts_with("content-type:")
    });
    debug_assert!(kept.first().is_some_and(|line| line.starts_with(status)));
    is_bare.then(|| {
        format!(
            "{}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{reason}",
            kept.join("\r\n"),
            reason.len()
        )
        .into_bytes()
    })
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.refusal.is_none() && this.requests.open.load(Ordering::Relaxed) == 0 {
            this.refusal = with_reason(bytes).map(|text| (text, 0));
        }
        let Some((text, written)) = &mut this.refusal else {
            return Pin::new(&mut this.socket).poll_write(cx, bytes);
        };
        // Whoever was told "not yet" comes again with the same bytes.
        while *written < text.len() {
            match ready!(Pin::new(&mut this.socket).poll_write(cx, &text[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        this.refusal = None;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut full = slices.iter().filter(|slice| !slice.is_empty());
        match (full.next(), full.next()) {
            (Some(one), None) => self.poll_write(cx, one),
            _ => Pin::new(&mut self.socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    //! Bytes in, half a head or not out.

    use super::*;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, u8::try_from(length).unwrap(), kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEAD_BYTES + length, b'x');
        bytes
    }

    #[test]
    fn heads_of_http2_are_half_until_they_end() {
        let whole = [frame(3, 4, 0), frame(2, HEADERS, END_HEADERS), frame(5, DATA, 1)].concat();
        let cases: [(Vec<u8>, bool); 9] = [
            (vec![], false),
            (whole.clone(), false),
            (whole[..4].to_vec(), true),
            (whole[..FRAME_HEAD_BYTES + 1].to_vec(), true),
            // Half a DATA frame.
            (whole[..whole.len() - 2].to_vec(), false),
            (frame(2, HEADERS, 0), true),
            ([frame(2, HEADERS, 0), frame(0, CONTINUATION, 0)].concat(), true),
            (
                [frame(2, HEADERS, 0), frame(1, CONTINUATION, END_HEADERS)].concat(),
                false,
            ),
            ([frame(0, HEADERS, END_HEADERS), frame(8, 6, 0)].concat(), false),
        ];
        for (bytes, is_half) in cases {
            let bytes = [PREFACE, &bytes].concat();
            for size in [1, 7, bytes.len()] {
                let (mut heads, requests) = (Heads::Unknown(0), Requests::default());
                for piece in bytes.chunks(size) {
                    heads.take(piece, &requests);
                }
                assert_eq!(heads.unfinished(&requests).is_some(), is_half, "{bytes:?} by {size}");
            }
        }
    }

    #[test]
    fn heads_of_http1_are_half_until_the_service_has_them() {
        let (mut heads, requests) = (Heads::Unknown(0), Arc::new(Requests::default()));
        heads.take(b"P", &requests);
        heads.take(b"OST", &requests);
        let first = heads.unfinished(&requests);
        assert!(first.is_some());
        let open = requests.begin();
        assert_eq!(heads.unfinished(&requests), None);
        heads.take(b"a body", &requests);
        assert_eq!(heads.unfinished(&requests), None);
        drop(open);
        assert_eq!(heads.unfinished(&requests), None, "idle");
        heads.take(b"G", &requests);
        let second = heads.unfinished(&requests);
        assert!(second.is_some() && second != first);
    }

    #[test]
    fn heads_of_http2_at_the_limit_and_one_beyond_it() {
        let of_bytes = |bytes: usize, version: Version, content_type: &str| {
            let head = "/a?b".len() + "content-type".len() + content_type.len() + "x".len() + 2 * FIELD_BYTES;
            let request = Request::builder().version(version).uri("http://host/a?b");
            let request = request.header(CONTENT_TYPE, content_type);
            let request = request.header("x", "y".repeat(bytes - head)).body(()).unwrap();
            too_large(&request)
        };
        assert!(of_bytes(HEADER_BYTES_MAX, Version::HTTP_2, "text/plain").is_none());
        assert!(of_bytes(HEADER_BYTES_MAX + 1, Version::HTTP_11, "text/plain").is_none());
        let plain = of_bytes(HEADER_BYTES_MAX + 1, Version::HTTP_2, "text/plain").unwrap();
        assert_eq!(plain.status(), 431);
        assert!(plain.body().ends_with(b"more than 65536 bytes"));
        let grpc = of_bytes(HEADER_BYTES_MAX + 1, Version::HTTP_2, "application/grpc").unwrap();
        assert_eq!(
            (grpc.status().as_u16(), &grpc.headers()["grpc-status"]),
            (200, &HeaderValue::from(8))
        );
    }

    #[test]
    fn only_refusals_that_are_not_the_services_get_a_reason() {
        let bare =
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let text = String::from_utf8(with_reason(bare.as_bytes()).unwrap()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 431 ") && head.contains("\r\nconnection: close\r\ndate: x\r\n"),
            "{head}"
        );
        assert!(head.ends_with(&format!("content-length: {}", body.len())) && body.contains("128 headers"));
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno",
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 ",
        ] {
            assert_eq!(with_reason(other.as_bytes()), None, "{other}");
        }
    }
}
