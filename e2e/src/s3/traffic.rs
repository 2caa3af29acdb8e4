//! What the S3 server was asked: one [`Counts`] per operation and key, and the last requests in order.
//!
//! A suite reads this to check costs ("a trace by id is at most two dependent reads") and to wait for something to
//! happen ("the first block was uploaded") without sleeping.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use http::{HeaderMap, Method, Uri};
use serde::{Deserialize, Serialize};

/// How many requests [`Traffic::recent`] remembers.
const RECENT_MAX: usize = 10_000;

/// The S3 operations that the server tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// GetObject.
    Get,
    /// HeadObject.
    Head,
    /// PutObject.
    Put,
    /// CopyObject.
    Copy,
    /// DeleteObject.
    Delete,
    /// DeleteObjects; its key is empty.
    DeleteMany,
    /// ListObjectsV2; its key is the prefix asked for.
    List,
    /// CreateMultipartUpload.
    CreateMultipart,
    /// UploadPart and UploadPartCopy.
    UploadPart,
    /// CompleteMultipartUpload.
    CompleteMultipart,
    /// AbortMultipartUpload.
    AbortMultipart,
    /// ListParts.
    ListParts,
    /// Everything about buckets.
    Bucket,
}

/// Sums over requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All requests, failed ones too.
    pub requests: u64,
    /// Those that were answered 4xx or 5xx, or with a closed connection.
    pub failed: u64,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes of the answers, before any toxic cut them.
    pub bytes_out: u64,
}

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which operation.
    pub op: Op,
    /// Object key, or the prefix of a LIST.
    pub key: String,
    /// The `Range` header, if one was sent.
    pub range: Option<String>,
    /// The answer's status; `None` when the connection was closed instead.
    pub status: Option<u16>,
    /// Body bytes of the answer.
    pub bytes_out: u64,
}

/// The shared record; clones see the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    counts: BTreeMap<(Op, String), Counts>,
    recent: VecDeque<Seen>,
}

impl Traffic {
    /// Sums the requests of one operation over every key that starts with `prefix`.
    pub fn count(&self, op: Op, prefix: &str) -> Counts {
        let record = self.lock();
        let from = (op, prefix.to_owned());
        let hits = record
            .counts
            .range(from..)
            .take_while(|((o, key), _)| *o == op && key.starts_with(prefix));
        hits.fold(Counts::default(), |sum, (_, counts)| sum.plus(*counts))
    }

    /// Sums by operation over all keys.
    pub fn by_op(&self) -> BTreeMap<Op, Counts> {
        let mut sums = BTreeMap::new();
        for ((op, _), counts) in &self.lock().counts {
            let sum: &mut Counts = sums.entry(*op).or_default();
            *sum = sum.plus(*counts);
        }
        sums
    }

    /// The last requests, oldest first, at most ten thousand.
    pub fn recent(&self) -> Vec<Seen> {
        self.lock().recent.iter().cloned().collect()
    }

    /// Forgets everything, so that the next numbers are about what follows.
    pub fn reset(&self) {
        *self.lock() = Record::default();
    }

    pub(super) fn note(&self, seen: Seen, bytes_in: u64) {
        let counts = Counts {
            requests: 1,
            failed: u64::from(seen.status.is_none_or(|status| status >= 400)),
            bytes_in,
            bytes_out: seen.bytes_out,
        };
        let mut record = self.lock();
        let sum = record.counts.entry((seen.op, seen.key.clone())).or_default();
        *sum = sum.plus(counts);
        record.recent.push_back(seen);
        if record.recent.len() > RECENT_MAX {
            record.recent.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
        }
    }
}

/// Names the operation and key of a path-style request.
pub(super) fn classify(method: &Method, uri: &Uri, headers: &HeaderMap) -> (Op, String) {
    let path = uri.path().trim_start_matches('/');
    let (_bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let key = percent_decode(key);
    let query: Vec<(&str, &str)> = uri
        .query()
        .unwrap_or("")
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    let has = |name: &str| query.iter().any(|(n, _)| *n == name);
    let op = match (method.as_str(), key.is_empty()) {
        ("GET", true) if has("list-type") => {
            let prefix = query
                .iter()
                .find(|(n, _)| *n == "prefix")
                .map_or("", |(_, value)| value);
            return (Op::List, percent_decode(prefix));
        }
        ("POST", true) if has("delete") => Op::DeleteMany,
        (_, true) => Op::Bucket,
        ("GET", false) if has("uploadId") => Op::ListParts,
        ("GET", false) => Op::Get,
        ("HEAD", false) => Op::Head,
        ("PUT", false) if has("uploadId") => Op::UploadPart,
        ("PUT", false) if headers.contains_key("x-amz-copy-source") => Op::Copy,
        ("PUT", false) => Op::Put,
        ("POST", false) if has("uploads") => Op::CreateMultipart,
        ("POST", false) if has("uploadId") => Op::CompleteMultipart,
        ("DELETE", false) if has("uploadId") => Op::AbortMultipart,
        ("DELETE", false) => Op::Delete,
        _ => Op::Bucket,
    };
    (op, key)
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operations() {
        let check = |method: &str, uri: &str, op: Op, key: &str| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(
                classify(&method, &uri.parse().unwrap(), &HeaderMap::new()),
                (op, key.to_owned()),
                "{uri}"
            );
        };
        check("GET", "/b/a/b%20c", Op::Get, "a/b c");
        check("GET", "/b?list-type=2&prefix=x%2F", Op::List, "x/");
        check("PUT", "/b/k?partNumber=1&uploadId=u", Op::UploadPart, "k");
        check("POST", "/b/k?uploads", Op::CreateMultipart, "k");
        check("POST", "/b/k?uploadId=u", Op::CompleteMultipart, "k");
        check("DELETE", "/b/k?uploadId=u", Op::AbortMultipart, "k");
        check("POST", "/b?delete", Op::DeleteMany, "");
        check("PUT", "/b", Op::Bucket, "");
    }
}
