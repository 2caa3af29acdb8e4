//! Everything that can be wrong with bytes that come in, sorted by what the sender should do next.
//!
//! `server` derives HTTP status, gRPC code and metric label from [`Kind`], once.

use model::proto::Malformed;

/// What the reader of an [`Error`] does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Fix the request; sending it again cannot help. HTTP 400, INVALID_ARGUMENT.
    Rejected,
    /// Send less at once. HTTP 413, RESOURCE_EXHAUSTED without retry info.
    TooLarge,
    /// Use another content encoding. HTTP 415, UNIMPLEMENTED.
    UnknownEncoding,
    /// Bytes that we wrote ourselves do not read back: repair from a peer.
    Corrupt,
}

/// Why bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A `Content-Encoding` or `grpc-encoding` nobody here can undo.
    #[error("unsupported content encoding {0:?}")]
    UnknownEncoding(String),
    /// The body is larger than accepted once decompressed.
    #[error("request body exceeds {limit} bytes after decompression")]
    BodyTooLarge {
        /// The accepted size.
        limit: usize,
    },
    /// The body grows too much when decompressed to be honest.
    #[error("request body decompresses to more than {ratio} times its size")]
    Bomb {
        /// The accepted ratio.
        ratio: usize,
    },
    /// The compressed stream is broken.
    #[error("cannot decompress {encoding} body")]
    Decompress {
        /// The encoding that was declared.
        encoding: &'static str,
        /// What the decompressor said.
        #[source]
        source: std::io::Error,
    },
    /// Bytes follow the end of the compressed stream.
    #[error("bytes follow the end of the {encoding} stream")]
    TrailingBytes {
        /// The encoding that was declared.
        encoding: &'static str,
    },
    /// The body is not a trace export request.
    #[error("malformed OTLP request at byte {position}")]
    Otlp {
        /// Offset in the decompressed body of the message that could not be read.
        position: usize,
        /// What is wrong there.
        #[source]
        source: Malformed,
    },
    /// The body is not OTLP/JSON.
    #[error("malformed OTLP/JSON at byte {position}: {reason}")]
    Json {
        /// Offset in the decompressed body.
        position: usize,
        /// What is wrong there.
        reason: JsonReason,
    },
    /// A frame of ours that does not read back.
    #[error("corrupt frame: {0}")]
    Frame(#[from] FrameReason),
    /// A message that should have been checked at the door does not read.
    #[error("stored message is malformed")]
    Stored(#[from] Malformed),
}

/// What is wrong with a JSON text, for the client to read. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonReason {
    /// The text ends too early.
    #[error("unexpected end")]
    End,
    /// A byte that cannot stand here.
    #[error("unexpected character")]
    Character,
    /// Bytes after the end of the request.
    #[error("trailing characters")]
    Trailing,
    /// Not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// A bad `\` escape, or half of a surrogate pair.
    #[error("invalid escape in string")]
    Escape,
    /// A control character inside a string.
    #[error("control character in string")]
    Control,
    /// A number JSON does not know.
    #[error("invalid number")]
    Number,
    /// The value has another type than the field wants.
    #[error("field {0} wants {1}")]
    Type(&'static str, &'static str),
    /// An integer that does not fit its field.
    #[error("field {0}: integer out of range")]
    Range(&'static str),
    /// An id that is not hexadecimal.
    #[error("field {0}: not hexadecimal")]
    Hex(&'static str),
    /// Bytes that are not base64.
    #[error("field {0}: not base64")]
    Base64(&'static str),
    /// An enumeration name nobody knows.
    #[error("field {0}: unknown enumeration name")]
    Enum(&'static str),
    /// The same field twice in one object, or two members of a value.
    #[error("field {0} is given twice")]
    Duplicate(&'static str),
    /// Nested deeper than accepted.
    #[error("nested too deeply")]
    TooDeep,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameReason {
    /// The frame ends too early.
    #[error("it ends too early")]
    Truncated,
    /// It is not the frame that was asked for.
    #[error("it starts with another tag")]
    Tag,
    /// Its format is newer than this program.
    #[error("its format {0} is not known")]
    Format(u8),
    /// Its tenant is not one.
    #[error("its tenant name is not valid")]
    Tenant,
    /// A length, count or index that contradicts the rest.
    #[error("its counts contradict each other")]
    Count,
    /// Its payload does not decompress to what the header says.
    #[error("its payload does not decompress")]
    Payload,
}

impl Error {
    /// What the reader does next.
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownEncoding(_) => Kind::UnknownEncoding,
            Self::BodyTooLarge { .. } | Self::Bomb { .. } => Kind::TooLarge,
            Self::Decompress { .. } | Self::TrailingBytes { .. } | Self::Otlp { .. } | Self::Json { .. } => {
                Kind::Rejected
            }
            Self::Frame(_) | Self::Stored(_) => Kind::Corrupt,
        }
    }

    /// The message and those of its causes in one line: what the client is told.
    pub fn to_client_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }
}
