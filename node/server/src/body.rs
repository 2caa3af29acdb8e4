//! A request body in one piece, within bounds of size and time.
//!
//! Owns [`collect`]. Always holds: nothing is kept beyond the size limit, every byte kept is in an in-flight
//! [`Permit`], and a sender that trickles is given up ("slowloris"): each [`BodyLimits::rate_window`] must bring
//! [`BodyLimits::rate_min`] bytes per second, whatever the body's size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use settings::listen::ListenSettings;
use tokio::time::Instant;

use crate::admission::Permit;
use crate::refusal::{Kind, Refusal};

/// Bounds of one body as it is sent, before decompression.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    pub wire_bytes_max: usize,
    /// Bytes per second.
    pub rate_min: u64,
    /// How long the rate is averaged over.
    pub rate_window: Duration,
}

impl From<&ListenSettings> for BodyLimits {
    fn from(listen: &ListenSettings) -> Self {
        Self {
            wire_bytes_max: listen.request_wire_bytes_max.as_usize(),
            rate_min: listen.body_rate_min.bytes(),
            rate_window: listen.body_rate_grace.duration(),
        }
    }
}

/// Reads the body to its end.
///
/// Cancel: dropping the future drops what was read; `permit` belongs to the caller and gives back with it.
pub async fn collect<B>(body: B, limits: &BodyLimits, permit: &mut Permit) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let hint = body.size_hint();
    if hint.lower() > limits.wire_bytes_max as u64 {
        return Err(too_large(limits));
    }
    // A declared length is believed only as far as it saves reallocation: the client may be lying about it.
    let expected = usize::try_from(hint.exact().unwrap_or(0)).unwrap_or(0).min(1 << 20);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut window = Window::new(limits);
    loop {
        let frame = match tokio::time::timeout_at(window.ends, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(Refusal::new(Kind::Rejected, format!("body is cut short: {error}"))),
            Err(_) if window.roll() => continue,
            Err(_) => return Err(too_slow(limits)),
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + rest.len();
        if data.len() > limits.wire_bytes_max - length {
            return Err(too_large(limits));
        }
        permit.grow(data.len())?;
        window.bytes += data.len() as u64;
        // A body of one frame, which most are, is passed on without copying.
        if length == 0 {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(expected.max(first.len() + data.len()));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
        if Instant::now() >= window.ends && !window.roll() {
            return Err(too_slow(limits));
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn too_large(limits: &BodyLimits) -> Refusal {
    Refusal::new(
        Kind::TooLarge,
        format!("request body is larger than {} bytes", limits.wire_bytes_max),
    )
}

fn too_slow(limits: &BodyLimits) -> Refusal {
    Refusal::new(
        Kind::TooSlow,
        format!("request body arrives slower than {} bytes per second", limits.rate_min),
    )
}

/// The current window and what it brought.
struct Window {
    length: Duration,
    needed: u64,
    ends: Instant,
    bytes: u64,
}

impl Window {
    fn new(limits: &BodyLimits) -> Self {
        let needed = (limits.rate_min as f64 * limits.rate_window.as_secs_f64()) as u64;
        Self {
            length: limits.rate_window,
            needed,
            ends: Instant::now() + limits.rate_window,
            bytes: 0,
        }
    }

    /// Starts the next window; false when this one brought too little.
    fn roll(&mut self) -> bool {
        let enough = self.bytes >= self.needed.max(1);
        self.ends = Instant::now() + self.length;
        self.bytes = 0;
        enough
    }
}

#[cfg(test)]
mod tests;
