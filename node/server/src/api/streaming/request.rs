//! The one message of a call, checked before the call begins.
//!
//! The generated service answers bytes that are no message with INTERNAL, which reads like a fault of ours, and waits for
//! them as long as it takes. So the message is read here, within the bounds of every other question in a body, and handed
//! on whole and inflated.

use http::HeaderMap;
use hyper::body::{Body, Bytes};
use prost::{DecodeError, Message};
use wire::inflate::{InflateLimits, inflate};
use wire::tempopb;

use crate::api::{POSTED_BYTES_MAX, read_posted};
use crate::framing;
use crate::refusal::{Kind, Refusal};

const SERVICE: &str = "/tempopb.StreamingQuerier/";

/// Reads the message of a call, as it is before compression, without its prefix.
pub(in crate::api) async fn read<B>(path: &str, headers: &HeaderMap, body: B) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let declared = framing::declared(headers)?;
    let mut body = read_posted(body).await?;
    let encoding = framing::open(&mut body, declared)?;
    let limits = InflateLimits {
        bytes_max: POSTED_BYTES_MAX,
        ..InflateLimits::default()
    };
    let message = inflate(encoding, body, &limits)?;
    check(path, &message)?;
    Ok(message)
}

/// Whether `message` is what the method at `path` takes. Methods that do not exist are left to the service.
pub(crate) fn check(path: &str, message: &[u8]) -> Result<(), Refusal> {
    let checked = match path.strip_prefix(SERVICE) {
        Some("Search") => decode::<tempopb::SearchRequest>(message),
        Some("SearchTags" | "SearchTagsV2") => decode::<tempopb::SearchTagsRequest>(message),
        Some("SearchTagValues" | "SearchTagValuesV2") => decode::<tempopb::SearchTagValuesRequest>(message),
        Some("MetricsQueryRange") => decode::<tempopb::QueryRangeRequest>(message),
        Some("MetricsQueryInstant") => decode::<tempopb::QueryInstantRequest>(message),
        _ => Ok(()),
    };
    checked.map_err(|error| Refusal::new(Kind::Rejected, format!("not a message of this method: {error}")))
}

fn decode<M: Message + Default>(message: &[u8]) -> Result<(), DecodeError> {
    M::decode(message).map(drop)
}

/// A search as its query string, for the fuzzer. `None`: it is no search.
pub(crate) fn search_pairs(message: &[u8]) -> Option<Vec<(&'static str, String)>> {
    tempopb::SearchRequest::decode(message).ok().map(super::search_pairs)
}
