//! Undoes the content encoding of a whole request body, within bounds.
//!
//! Bodies are wanted in one buffer because [`crate::ingest`] hands out slices of it. The size is checked while
//! decompressing, on the decompressed side, so a small body never becomes a large allocation: at most
//! [`InflateLimits::bytes_max`] plus one chunk is ever held.
//!
//! Blocking CPU work: callers run it on their CPU pool, not on an IO thread.

use std::io::{self, Read};

use bytes::Bytes;

use crate::error::Error;

/// A content encoding as OTLP exporters use them, over HTTP (`Content-Encoding`) and gRPC (`grpc-encoding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As is.
    Identity,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
    /// A raw snappy block, or the framed stream: older Collectors send frames under the name of the block.
    Snappy,
    /// The framed snappy stream.
    SnappyFramed,
    /// RFC 1950, which is what HTTP calls deflate.
    Zlib,
    /// One LZ4 frame.
    Lz4,
}

/// How much a body may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InflateLimits {
    /// Decompressed size, inclusive.
    pub bytes_max: usize,
    /// Growth factor that is taken for a bomb. Real batches of spans reach 10 to 40.
    pub ratio_max: usize,
    /// Up to this decompressed size the ratio is not looked at: small bodies of one repeated span compress well.
    pub ratio_free_bytes: usize,
}

impl Default for InflateLimits {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            ratio_max: 100,
            ratio_free_bytes: 1 << 20,
        }
    }
}

/// Decompressed bytes taken between two looks at the limits.
const CHUNK_BYTES: usize = 256 << 10;

/// No snappy element makes more than 64 bytes out of 3.
const SNAPPY_RATIO_MAX: usize = 22;

const SNAPPY_STREAM_START: &[u8] = b"\xff\x06\x00\x00sNaPpY";

impl Encoding {
    /// Reads a `Content-Encoding` or `grpc-encoding` value; no header at all is [`Encoding::Identity`].
    ///
    /// Errors: [`Error::UnknownEncoding`], also for lists of several encodings, which no exporter sends.
    pub fn from_header(value: Option<&str>) -> Result<Self, Error> {
        let name = value.unwrap_or_default().trim();
        let known: [(&str, Self); 12] = [
            ("", Self::Identity),
            ("identity", Self::Identity),
            ("none", Self::Identity),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("zstd", Self::Zstd),
            ("snappy", Self::Snappy),
            ("x-snappy-framed", Self::SnappyFramed),
            ("deflate", Self::Zlib),
            ("zlib", Self::Zlib),
            ("lz4", Self::Lz4),
            ("x-lz4", Self::Lz4),
        ];
        match known.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)) {
            Some((_, encoding)) => Ok(*encoding),
            None => Err(Error::UnknownEncoding(name.chars().take(32).collect())),
        }
    }

    /// The usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Snappy => "snappy",
            Self::SnappyFramed => "x-snappy-framed",
            Self::Zlib => "deflate",
            Self::Lz4 => "lz4",
        }
    }
}

/// Decompresses `body` whole. [`Encoding::Identity`] gives back the same bytes without copying them.
///
/// Errors: [`Error::BodyTooLarge`] and [`Error::Bomb`] as soon as a limit is crossed, [`Error::Decompress`] for a broken
/// or cut stream, [`Error::TrailingBytes`] when something follows it.
pub fn inflate(encoding: Encoding, body: Bytes, limits: &InflateLimits) -> Result<Bytes, Error> {
    let framed_snappy = body.starts_with(SNAPPY_STREAM_START);
    let input: &[u8] = &body;
    if encoding != Encoding::Identity && input.is_empty() {
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        return Err(Error::Decompress {
            encoding: encoding.name(),
            source,
        });
    }
    let mut sink = Sink {
        encoding,
        limits,
        input_bytes: input.len(),
        out: Vec::new(),
    };
    match encoding {
        Encoding::Identity => {
            sink.check(input.len())?;
            return Ok(body);
        }
        Encoding::Gzip => sink.drain(flate2::bufread::MultiGzDecoder::new(input))?,
        Encoding::Zlib => {
            let mut stream = flate2::bufread::ZlibDecoder::new(input);
            sink.drain(&mut stream)?;
            sink.nothing_left(stream.get_ref())?;
        }
        Encoding::Zstd => {
            let mut stream = zstd::stream::read::Decoder::with_buffer(input).map_err(|e| sink.broken(e))?;
            let window_log = usize::BITS - limits.bytes_max.saturating_sub(1).leading_zeros();
            // Exporters' usual windows go up to 8 MiB whatever the size of the body; none is needed beyond the body.
            stream
                .window_log_max(window_log.clamp(23, 27))
                .map_err(|e| sink.broken(e))?;
            sink.drain(stream)?;
        }
        Encoding::Snappy if !framed_snappy => sink.snappy_block(input)?,
        Encoding::Snappy | Encoding::SnappyFramed => sink.drain(snap::read::FrameDecoder::new(input))?,
        Encoding::Lz4 => {
            let mut source = Starvable {
                rest: input,
                starved: false,
            };
            sink.drain(lz4_flex::frame::FrameDecoder::new(&mut source))?;
            if source.starved {
                return Err(sink.broken(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            sink.nothing_left(source.rest)?;
        }
    }
    Ok(sink.out.into())
}

/// Remembers that more was asked for than there is: the LZ4 decoder takes a frame without its end mark for a whole one.
struct Starvable<'a> {
    rest: &'a [u8],
    starved: bool,
}

impl Read for Starvable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.starved |= self.rest.is_empty() && !buffer.is_empty();
        self.rest.read(buffer)
    }
}

/// The growing output and what it is measured against.
struct Sink<'a> {
    encoding: Encoding,
    limits: &'a InflateLimits,
    input_bytes: usize,
    out: Vec<u8>,
}

impl Sink<'_> {
    fn drain(&mut self, mut stream: impl Read) -> Result<(), Error> {
        loop {
            let before = self.out.len();
            // One byte beyond the limit is enough to know that it is crossed.
            let room = (self.limits.bytes_max + 1).saturating_sub(before).min(CHUNK_BYTES);
            stream
                .by_ref()
                .take(room as u64)
                .read_to_end(&mut self.out)
                .map_err(|e| self.broken(e))?;
            self.check(self.out.len())?;
            if self.out.len() < before + room {
                return Ok(());
            }
        }
    }

    fn snappy_block(&mut self, input: &[u8]) -> Result<(), Error> {
        let length = snap::raw::decompress_len(input).map_err(|e| self.broken(e.into()))?;
        self.check(length)?;
        // The block declares its length up front; one that its bytes cannot reach is not allocated.
        if length > input.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(self.broken(io::Error::from(io::ErrorKind::InvalidData)));
        }
        self.out = snap::raw::Decoder::new()
            .decompress_vec(input)
            .map_err(|e| self.broken(e.into()))?;
        Ok(())
    }

    fn check(&self, length: usize) -> Result<(), Error> {
        if length > self.limits.bytes_max {
            return Err(Error::BodyTooLarge {
                limit: self.limits.bytes_max,
            });
        }
        if length > self.limits.ratio_free_bytes && length / self.limits.ratio_max.max(1) > self.input_bytes {
            return Err(Error::Bomb {
                ratio: self.limits.ratio_max,
            });
        }
        Ok(())
    }

    fn nothing_left(&self, rest: &[u8]) -> Result<(), Error> {
        if rest.is_empty() {
            Ok(())
        } else {
            Err(Error::TrailingBytes {
                encoding: self.encoding.name(),
            })
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Decompress {
            encoding: self.encoding.name(),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
