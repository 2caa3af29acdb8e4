//! The bucket behind the S3 server: objects in memory, with the conditional writes that the product leans on.
//!
//! Owns every object, upload and tombstone under one lock, so `If-None-Match: *` and `If-Match` are atomic here: of
//! two racing writers exactly one wins. What S3 refuses is refused too (a part under 5 MiB that is not the last, parts
//! out of order, a wrong checksum), because a client that gets away with it here would fail in a real bucket.
//!
//! Not here: faults (see [`super::toxics`]), versioning, ACLs, encryption, server-side copy across buckets' policies.

mod conditions;
mod listing;
mod multipart;
mod objects;
mod sums;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use s3s::dto::*;
use s3s::{S3Response, S3Result, s3_error};

use multipart::Upload;
use sums::{hex, md5};

/// How many mutations a stale LIST can look back; more is clamped.
const HISTORY_MAX: usize = 100_000;

/// Request extension: this LIST answers as the bucket stood so many mutations ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct StaleBy(pub(super) u64);

/// Request extension: write only if the object has this generation, 0 meaning that there is none. Google's compare-and-swap.
#[derive(Debug, Clone, Copy)]
pub(super) struct IfGeneration(pub(super) u64);

/// Response header that names an object's generation, sent whatever the dialect.
const GENERATION: &str = "x-goog-generation";

/// The S3 operations over memory; clones share the buckets.
#[derive(Debug, Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    rules: Rules,
}

/// The limits of S3 that a test may want to move.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most keys in one LIST page whatever the client asks for (S3: 1,000). Smaller ones exercise pagination.
    pub list_page_max: usize,
    /// Smallest part that is not the last (S3: 5 MiB).
    pub part_bytes_min: usize,
    /// What becomes of a PUT with a condition (S3: honoured).
    pub conditions: Conditions,
}

/// How a store takes `If-Match` and `If-None-Match` of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// As documented.
    Honoured,
    /// As if they had not been sent: what older stores do.
    Ignored,
    /// 501, without writing.
    Refused,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            list_page_max: 1_000,
            part_bytes_min: 5 << 20,
            conditions: Conditions::Honoured,
        }
    }
}

/// One object as a test sees it when it looks past HTTP.
#[derive(Debug, Clone)]
pub struct StoredObject {
    /// The whole content.
    pub data: Bytes,
    /// Without quotes: the MD5 for a simple PUT, `<md5 of md5s>-<parts>` for a multipart one.
    pub etag: String,
    /// When it was written.
    pub modified: SystemTime,
    /// Grows with every write to the server; Google's name for a version.
    pub generation: u64,
    /// User metadata (`x-amz-meta-*`).
    pub metadata: Metadata,
    /// As sent by the writer.
    pub content_type: Option<String>,
    checksum: Checksum,
}

#[derive(Debug, Default)]
struct State {
    buckets: HashMap<String, BTreeMap<String, StoredObject>>,
    uploads: BTreeMap<String, Upload>,
    next_upload: u64,
    last_generation: u64,
    /// What each of the last mutations replaced, newest last: undoing them gives the bucket as it stood.
    history: VecDeque<(String, String, Option<StoredObject>)>,
}

impl Memory {
    /// Makes the named buckets, empty.
    pub fn new(buckets: &[&str], rules: Rules) -> Self {
        let mut state = State::default();
        for bucket in buckets {
            state.buckets.insert((*bucket).to_owned(), BTreeMap::new());
        }
        Self {
            state: Arc::new(Mutex::new(state)),
            rules,
        }
    }

    /// Copies out every object whose key starts with `prefix`, in key order.
    pub fn objects(&self, bucket: &str, prefix: &str) -> Vec<(String, StoredObject)> {
        let state = self.lock();
        let Some(objects) = state.buckets.get(bucket) else {
            return Vec::new();
        };
        objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }

    /// Uploads that were begun and neither completed nor aborted: `(key, age of creation)`.
    pub fn open_uploads(&self, bucket: &str) -> Vec<(String, SystemTime)> {
        let state = self.lock();
        let uploads = state.uploads.values().filter(|upload| upload.bucket == bucket);
        uploads.map(|upload| (upload.key.clone(), upload.started)).collect()
    }

    /// Replaces an object behind the client's back, as bit rot or a foreign writer would.
    pub fn overwrite(&self, bucket: &str, key: &str, data: Bytes) {
        let object = StoredObject {
            etag: hex(&md5(&data)),
            data,
            generation: 0,
            modified: SystemTime::now(),
            metadata: Metadata::default(),
            content_type: None,
            checksum: Checksum::default(),
        };
        self.lock().replace(bucket, key, Some(object));
    }

    /// Removes an object behind the client's back.
    pub fn remove(&self, bucket: &str, key: &str) {
        self.lock().replace(bucket, key, None);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a handler panicked; the test that caused it has already failed.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn objects(&self, bucket: &str) -> S3Result<&BTreeMap<String, StoredObject>> {
        self.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    fn object(&self, bucket: &str, key: &str) -> S3Result<&StoredObject> {
        self.objects(bucket)?.get(key).ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// Puts or removes an object and gives the generation that it got.
    fn replace(&mut self, bucket: &str, key: &str, object: Option<StoredObject>) -> u64 {
        let Some(objects) = self.buckets.get_mut(bucket) else {
            return 0;
        };
        self.last_generation += 1;
        let before = match object {
            Some(object) => objects.insert(
                key.to_owned(),
                StoredObject {
                    generation: self.last_generation,
                    ..object
                },
            ),
            None => objects.remove(key),
        };
        self.history.push_back((bucket.to_owned(), key.to_owned(), before));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        self.last_generation
    }
}

fn versioned<T>(output: T, generation: u64) -> S3Response<T> {
    let mut response = S3Response::new(output);
    response.headers.insert(GENERATION, generation.into());
    response
}

fn source_object(state: &State, source: &CopySource) -> S3Result<StoredObject> {
    match source {
        CopySource::Bucket { bucket, key, .. } => Ok(state.object(bucket, key)?.clone()),
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => Err(s3_error!(NotImplemented)),
    }
}

async fn collect(body: Option<StreamingBlob>, declared: Option<i64>) -> S3Result<Bytes> {
    let mut data = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            // A wrong payload hash surfaces here, as does a client that went away.
            let chunk = chunk.map_err(|error| s3s::S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error))?;
            data.extend_from_slice(&chunk);
        }
    }
    match declared {
        Some(declared) if usize::try_from(declared).ok() != Some(data.len()) => Err(s3_error!(IncompleteBody)),
        _ => Ok(data.freeze()),
    }
}

fn to_usize(value: u64) -> S3Result<usize> {
    usize::try_from(value).map_err(|_| s3_error!(InvalidRange))
}
