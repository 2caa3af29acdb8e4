//! One answer for everything that goes wrong: what the client should do next, as HTTP and as gRPC.
//!
//! Owns [`Refusal`] and [`Kind`]. Status codes, gRPC codes, metric labels and whether a client may retry are derived
//! from [`Kind`] here and nowhere else; every room's own `Kind` is turned into this one at the server's door.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

/// What the client should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Fix the request.
    Rejected,
    /// Fix the client: it does not keep to the rules of gRPC.
    Protocol,
    /// Say who you are.
    Unauthenticated,
    /// Ask an administrator.
    Forbidden,
    /// Look elsewhere; it is not here.
    NotFound,
    /// Use another method.
    WrongMethod,
    /// Send faster.
    TooSlow,
    /// Send less at once; the same again cannot succeed.
    TooLarge,
    /// Use another encoding or content type.
    UnknownEncoding,
    /// Ask for less; the answer would be larger than allowed.
    AnswerTooLarge,
    /// Come back later; nothing was accepted.
    Throttled,
    /// Retry; the request may or may not have taken effect.
    Unavailable,
    /// Ask for less or retry; the time was up.
    TimedOut,
    /// The client went away.
    Cancelled,
    /// Report a bug of ours.
    Internal,
}

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: Kind,
    /// For the client to read. Names the field or the limit, never quotes a body.
    pub message: Cow<'static, str>,
    /// When to come back: [`Kind::Throttled`] and [`Kind::Unavailable`] say a second unless they know better. `None`: not
    /// said.
    pub retry_after: Option<Duration>,
}

/// gRPC status codes that we send.
pub(crate) mod grpc_code {
    pub(crate) const CANCELLED: i32 = 1;
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const DEADLINE_EXCEEDED: i32 = 4;
    pub(crate) const NOT_FOUND: i32 = 5;
    pub(crate) const PERMISSION_DENIED: i32 = 7;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
    pub(crate) const INTERNAL: i32 = 13;
    pub(crate) const UNAVAILABLE: i32 = 14;
    pub(crate) const UNAUTHENTICATED: i32 = 16;
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Rejected,
        Self::Protocol,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::WrongMethod,
        Self::TooSlow,
        Self::TooLarge,
        Self::UnknownEncoding,
        Self::AnswerTooLarge,
        Self::Throttled,
        Self::Unavailable,
        Self::TimedOut,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The kind of this label; how a refusal travels between nodes.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }

    /// HTTP status. What Tempo's users see where Tempo has the case.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::Rejected | Self::Protocol => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::AnswerTooLarge => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            // 499, which nginx made up and Tempo uses; nobody is there to read it except the metrics.
            Self::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// gRPC status. RESOURCE_EXHAUSTED is retried by OTLP clients only when it carries RetryInfo, so a body that is too
    /// large may share it with a full queue.
    pub fn grpc_code(self) -> i32 {
        use grpc_code::*;
        match self {
            Self::Rejected => INVALID_ARGUMENT,
            Self::Unauthenticated => UNAUTHENTICATED,
            Self::Forbidden => PERMISSION_DENIED,
            Self::NotFound => NOT_FOUND,
            Self::WrongMethod | Self::UnknownEncoding => UNIMPLEMENTED,
            Self::TooSlow | Self::TimedOut => DEADLINE_EXCEEDED,
            Self::TooLarge | Self::AnswerTooLarge | Self::Throttled => RESOURCE_EXHAUSTED,
            Self::Unavailable => UNAVAILABLE,
            Self::Cancelled => CANCELLED,
            // As gRPC wants it, though the fault is not ours; metrics tell the two apart.
            Self::Internal | Self::Protocol => INTERNAL,
        }
    }

    /// Metric label; kept stable.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Protocol => "protocol",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::WrongMethod => "wrong_method",
            Self::TooSlow => "too_slow",
            Self::TooLarge => "too_large",
            Self::UnknownEncoding => "unknown_encoding",
            Self::AnswerTooLarge => "answer_too_large",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl Refusal {
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = matches!(kind, Kind::Throttled | Kind::Unavailable).then_some(Duration::from_secs(1));
        Self {
            kind,
            message: message.into(),
            retry_after,
        }
    }

    pub fn throttled(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self {
            kind: Kind::Throttled,
            message: message.into(),
            retry_after: Some(retry_after),
        }
    }

    /// `Retry-After` counts whole seconds, rounded up so that nobody comes back too early.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
            .map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            .map(|seconds| seconds.max(1))
    }
}

impl From<wire::Error> for Refusal {
    fn from(error: wire::Error) -> Self {
        let kind = match error.kind() {
            wire::Kind::Rejected => Kind::Rejected,
            wire::Kind::TooLarge => Kind::TooLarge,
            wire::Kind::UnknownEncoding => Kind::UnknownEncoding,
            wire::Kind::Corrupt => Kind::Internal,
        };
        Self::new(kind, error.to_client_text())
    }
}
