//! The bucket behind the S3 server: objects in memory, with the conditional writes that the product leans on.
//!
//! Owns every object, upload and tombstone under one lock, so `If-None-Match: *` and `If-Match` are atomic here: of
//! two racing writers exactly one wins. What S3 refuses is refused too (a part under 5 MiB that is not the last, parts
//! out of order, a wrong checksum), because a client that gets away with it here would fail in a real bucket.
//!
//! Not here: faults (see [`super::toxics`]), versioning, ACLs, encryption, server-side copy across buckets' policies.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::base64;

/// How many mutations a stale LIST can look back; more is clamped.
const HISTORY_MAX: usize = 100_000;
/// S3's own limit on the number of parts.
const PARTS_MAX: i32 = 10_000;

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
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            list_page_max: 1_000,
            part_bytes_min: 5 << 20,
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

#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    parts: BTreeMap<i32, StoredPart>,
    metadata: Metadata,
    content_type: Option<String>,
    started: SystemTime,
}

#[derive(Debug)]
struct StoredPart {
    data: Bytes,
    md5: [u8; 16],
    modified: SystemTime,
    checksum: Checksum,
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

    /// The bucket's listing (key → etag, size, time) with the last `stale_by` mutations undone.
    fn listing(&self, bucket: &str, stale_by: u64) -> S3Result<BTreeMap<String, StoredObject>> {
        let mut objects = self.objects(bucket)?.clone();
        let undo = usize::try_from(stale_by).unwrap_or(usize::MAX).min(self.history.len());
        for (of_bucket, key, before) in self.history.iter().rev().take(undo) {
            if of_bucket != bucket {
                continue;
            }
            match before {
                Some(object) => objects.insert(key.clone(), object.clone()),
                None => objects.remove(key),
            };
        }
        Ok(objects)
    }

    fn check_write(
        &self,
        bucket: &str,
        key: &str,
        if_match: Option<&ETagCondition>,
        if_none_match: Option<&ETagCondition>,
        if_generation: Option<&IfGeneration>,
    ) -> S3Result<()> {
        let current = self.objects(bucket)?.get(key);
        if if_generation.is_some_and(|wanted| wanted.0 != current.map_or(0, |object| object.generation)) {
            return Err(s3_error!(PreconditionFailed));
        }
        if let Some(condition) = if_none_match {
            match condition {
                // S3 takes nothing but `*` here.
                ETagCondition::Any if current.is_some() => return Err(s3_error!(PreconditionFailed)),
                ETagCondition::Any => {}
                ETagCondition::ETag(_) => return Err(s3_error!(NotImplemented)),
            }
        }
        if let Some(condition) = if_match {
            let Some(current) = current else {
                return Err(s3_error!(NoSuchKey));
            };
            if !matches_etag(condition, &current.etag) {
                return Err(s3_error!(PreconditionFailed));
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl S3 for Memory {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let mut state = self.lock();
        if state.buckets.contains_key(&req.input.bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        state.buckets.insert(req.input.bucket, BTreeMap::new());
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.lock().objects(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn list_buckets(&self, _req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let names: BTreeSet<String> = self.lock().buckets.keys().cloned().collect();
        let buckets = names.into_iter().map(|name| Bucket {
            name: Some(name),
            ..Default::default()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..Default::default()
        }))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.lock().objects(&req.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let trailers = req.trailing_headers;
        let if_generation = req.extensions.get::<IfGeneration>().copied();
        let input = req.input;
        self.lock().objects(&input.bucket)?;
        let data = collect(input.body, input.content_length).await?;
        let mut sent = Checksum {
            checksum_crc32: input.checksum_crc32,
            checksum_crc32c: input.checksum_crc32c,
            checksum_crc64nvme: input.checksum_crc64nvme,
            checksum_sha1: input.checksum_sha1,
            checksum_sha256: input.checksum_sha256,
            ..Default::default()
        };
        take_trailing(&mut sent, trailers.as_ref());
        check_md5(&data, input.content_md5.as_deref())?;
        check_sums(&data, &sent)?;
        let object = StoredObject {
            etag: hex(&md5(&data)),
            data,
            modified: SystemTime::now(),
            generation: 0,
            metadata: input.metadata.unwrap_or_default(),
            content_type: input.content_type,
            checksum: sent,
        };
        let output = PutObjectOutput {
            e_tag: Some(ETag::Strong(object.etag.clone())),
            checksum_crc32: object.checksum.checksum_crc32.clone(),
            checksum_crc32c: object.checksum.checksum_crc32c.clone(),
            checksum_crc64nvme: object.checksum.checksum_crc64nvme.clone(),
            checksum_sha1: object.checksum.checksum_sha1.clone(),
            checksum_sha256: object.checksum.checksum_sha256.clone(),
            ..Default::default()
        };
        let mut state = self.lock();
        let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
        state.check_write(
            &input.bucket,
            &input.key,
            if_match,
            if_none_match,
            if_generation.as_ref(),
        )?;
        let generation = state.replace(&input.bucket, &input.key, Some(object));
        Ok(versioned(output, generation))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let object = self.lock().object(&input.bucket, &input.key)?.clone();
        let generation = object.generation;
        check_read(
            &object,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )?;
        let total = object.data.len() as u64;
        let range = match &input.range {
            Some(range) => Some(range.check(total).map_err(|_| s3_error!(InvalidRange))?),
            None => None,
        };
        let data = match &range {
            Some(range) => object.data.slice(to_usize(range.start)?..to_usize(range.end)?),
            None => object.data.clone(),
        };
        let whole = range.is_none();
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(data.len()).ok(),
            content_range: range.map(|range| format!("bytes {}-{}/{total}", range.start, range.end - 1)),
            content_type: object.content_type,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: Some(object.metadata),
            // A checksum of the whole object must not be sent with a piece of it.
            checksum_sha256: object.checksum.checksum_sha256.filter(|_| whole),
            checksum_crc64nvme: object.checksum.checksum_crc64nvme.filter(|_| whole),
            checksum_crc32c: object.checksum.checksum_crc32c.filter(|_| whole),
            body: Some(StreamingBlob::from(s3s::Body::from(data))),
            ..Default::default()
        };
        Ok(versioned(output, generation))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let object = self.lock().object(&input.bucket, &input.key)?.clone();
        let generation = object.generation;
        check_read(
            &object,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )?;
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(object.data.len()).ok(),
            content_type: object.content_type,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: Some(object.metadata),
            ..Default::default()
        };
        Ok(versioned(output, generation))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        let mut state = self.lock();
        let known = state.objects(&input.bucket)?.contains_key(&input.key);
        if known {
            state.check_write(&input.bucket, &input.key, input.if_match.as_ref(), None, None)?;
            state.replace(&input.bucket, &input.key, None);
        }
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let mut state = self.lock();
        state.objects(&input.bucket)?;
        if input.delete.objects.len() > 1_000 {
            return Err(s3_error!(MalformedXML));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            if state.objects(&input.bucket)?.contains_key(&object.key) {
                state.replace(&input.bucket, &object.key, None);
            }
            if !quiet {
                deleted.push(DeletedObject {
                    key: Some(object.key),
                    ..Default::default()
                });
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            ..Default::default()
        }))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let if_generation = req.extensions.get::<IfGeneration>().copied();
        let input = req.input;
        let mut state = self.lock();
        state.check_write(&input.bucket, &input.key, None, None, if_generation.as_ref())?;
        let mut object = source_object(&state, &input.copy_source)?;
        object.modified = SystemTime::now();
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        };
        let generation = state.replace(&input.bucket, &input.key, Some(object));
        let output = CopyObjectOutput {
            copy_object_result: Some(result),
            ..Default::default()
        };
        Ok(versioned(output, generation))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let stale_by = req.extensions.get::<StaleBy>().map_or(0, |stale| stale.0);
        let input = req.input;
        let objects = self.lock().listing(&input.bucket, stale_by)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let asked = input
            .max_keys
            .map_or(self.rules.list_page_max, |max| usize::try_from(max).unwrap_or(0));
        let page_max = asked.min(self.rules.list_page_max);
        // The token is the last key or common prefix already given, so a page can resume after deletions.
        let after = input
            .continuation_token
            .clone()
            .or(input.start_after.clone())
            .unwrap_or_default();

        let mut contents = Vec::new();
        let mut prefixes: Vec<String> = Vec::new();
        let mut last = None;
        let mut truncated = false;
        for (key, object) in objects
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
        {
            let entry = match &input.delimiter {
                Some(delimiter) if !delimiter.is_empty() => key[prefix.len()..]
                    .find(delimiter.as_str())
                    .map_or(key.as_str(), |at| &key[..prefix.len() + at + delimiter.len()]),
                _ => key.as_str(),
            };
            let is_prefix = entry.len() < key.len() || prefixes.last().is_some_and(|known| known == entry);
            if entry <= after.as_str() || prefixes.last().is_some_and(|known| known == entry) {
                continue;
            }
            if contents.len() + prefixes.len() >= page_max {
                truncated = true;
                break;
            }
            last = Some(entry.to_owned());
            if is_prefix {
                prefixes.push(entry.to_owned());
                continue;
            }
            contents.push(Object {
                e_tag: Some(ETag::Strong(object.etag.clone())),
                key: Some(key.clone()),
                last_modified: Some(object.modified.into()),
                size: i64::try_from(object.data.len()).ok(),
                ..Default::default()
            });
        }
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            max_keys: i32::try_from(page_max).ok(),
            key_count: i32::try_from(contents.len() + prefixes.len()).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(truncated),
            next_continuation_token: last.filter(|_| truncated),
            contents: Some(contents),
            common_prefixes: Some(prefixes.into_iter().map(|p| CommonPrefix { prefix: Some(p) }).collect()),
            delimiter: input.delimiter,
            encoding_type: input.encoding_type,
            start_after: input.start_after,
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let mut state = self.lock();
        state.objects(&input.bucket)?;
        state.next_upload += 1;
        let upload_id = format!("upload-{:08}", state.next_upload);
        let upload = Upload {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            parts: BTreeMap::new(),
            metadata: input.metadata.unwrap_or_default(),
            content_type: input.content_type,
            started: SystemTime::now(),
        };
        state.uploads.insert(upload_id.clone(), upload);
        let output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload_id),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let trailers = req.trailing_headers;
        let input = req.input;
        let data = collect(input.body, input.content_length).await?;
        let mut sent = Checksum {
            checksum_crc32: input.checksum_crc32,
            checksum_crc32c: input.checksum_crc32c,
            checksum_crc64nvme: input.checksum_crc64nvme,
            checksum_sha1: input.checksum_sha1,
            checksum_sha256: input.checksum_sha256,
            ..Default::default()
        };
        take_trailing(&mut sent, trailers.as_ref());
        check_md5(&data, input.content_md5.as_deref())?;
        check_sums(&data, &sent)?;
        let part = StoredPart {
            md5: md5(&data),
            data,
            modified: SystemTime::now(),
            checksum: sent.clone(),
        };
        let e_tag = Some(ETag::Strong(hex(&part.md5)));
        self.put_part(&input.bucket, &input.key, &input.upload_id, input.part_number, part)?;
        let output = UploadPartOutput {
            e_tag,
            checksum_crc32: sent.checksum_crc32,
            checksum_crc32c: sent.checksum_crc32c,
            checksum_crc64nvme: sent.checksum_crc64nvme,
            checksum_sha1: sent.checksum_sha1,
            checksum_sha256: sent.checksum_sha256,
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = req.input;
        let source = source_object(&self.lock(), &input.copy_source)?;
        let data = match &input.copy_source_range {
            Some(header) => {
                let range = Range::parse(header).map_err(|_| s3_error!(InvalidArgument))?;
                let range = range
                    .check(source.data.len() as u64)
                    .map_err(|_| s3_error!(InvalidRange))?;
                source.data.slice(to_usize(range.start)?..to_usize(range.end)?)
            }
            None => source.data,
        };
        let modified = SystemTime::now();
        let part = StoredPart {
            md5: md5(&data),
            data,
            modified,
            checksum: Checksum::default(),
        };
        let e_tag = Some(ETag::Strong(hex(&part.md5)));
        self.put_part(&input.bucket, &input.key, &input.upload_id, input.part_number, part)?;
        let result = CopyPartResult {
            e_tag,
            last_modified: Some(modified.into()),
            ..Default::default()
        };
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let if_generation = req.extensions.get::<IfGeneration>().copied();
        let input = req.input;
        let mut state = self.lock();
        let listed = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default();
        let object = self.assemble(&state, &input.bucket, &input.key, &input.upload_id, &listed)?;
        let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
        state.check_write(
            &input.bucket,
            &input.key,
            if_match,
            if_none_match,
            if_generation.as_ref(),
        )?;
        let e_tag = Some(ETag::Strong(object.etag.clone()));
        state.uploads.remove(&input.upload_id);
        let generation = state.replace(&input.bucket, &input.key, Some(object));
        let output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag,
            ..Default::default()
        };
        Ok(versioned(output, generation))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        let mut state = self.lock();
        state.upload(&input.bucket, &input.key, &input.upload_id)?;
        state.uploads.remove(&input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let state = self.lock();
        let upload = state.upload(&input.bucket, &input.key, &input.upload_id)?;
        let after = input.part_number_marker.unwrap_or(0);
        let max = usize::try_from(input.max_parts.unwrap_or(1_000))
            .unwrap_or(0)
            .min(1_000);
        let mut rest = upload.parts.range(after + 1..);
        let parts: Vec<Part> = rest
            .by_ref()
            .take(max)
            .map(|(number, part)| Part {
                part_number: Some(*number),
                e_tag: Some(ETag::Strong(hex(&part.md5))),
                size: i64::try_from(part.data.len()).ok(),
                last_modified: Some(part.modified.into()),
                checksum_sha256: part.checksum.checksum_sha256.clone(),
                ..Default::default()
            })
            .collect();
        let truncated = rest.next().is_some();
        let next = parts.last().and_then(|part| part.part_number);
        let output = ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(truncated),
            next_part_number_marker: next.filter(|_| truncated),
            parts: Some(parts),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let state = self.lock();
        state.objects(&input.bucket)?;
        let prefix = input.prefix.unwrap_or_default();
        let open = state
            .uploads
            .iter()
            .filter(|(_, u)| u.bucket == input.bucket && u.key.starts_with(&prefix));
        let uploads = open
            .map(|(id, upload)| MultipartUpload {
                upload_id: Some(id.clone()),
                key: Some(upload.key.clone()),
                initiated: Some(upload.started.into()),
                ..Default::default()
            })
            .collect();
        let output = ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            is_truncated: Some(false),
            uploads: Some(uploads),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }
}

impl State {
    fn upload(&self, bucket: &str, key: &str, upload_id: &str) -> S3Result<&Upload> {
        let upload = self
            .uploads
            .get(upload_id)
            .filter(|upload| upload.bucket == bucket && upload.key == key);
        upload.ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

impl Memory {
    fn put_part(&self, bucket: &str, key: &str, upload_id: &str, number: i32, part: StoredPart) -> S3Result<()> {
        if !(1..=PARTS_MAX).contains(&number) {
            return Err(s3_error!(InvalidArgument, "part number must be 1 to 10000"));
        }
        let mut state = self.lock();
        state.upload(bucket, key, upload_id)?;
        if let Some(upload) = state.uploads.get_mut(upload_id) {
            upload.parts.insert(number, part);
        }
        Ok(())
    }

    /// Joins the listed parts, refusing what S3 refuses.
    fn assemble(
        &self,
        state: &State,
        bucket: &str,
        key: &str,
        upload_id: &str,
        listed: &[CompletedPart],
    ) -> S3Result<StoredObject> {
        let upload = state.upload(bucket, key, upload_id)?;
        if listed.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let mut data = BytesMut::new();
        let mut sums = Vec::new();
        let mut before = 0;
        for (at, completed) in listed.iter().enumerate() {
            let number = completed.part_number.unwrap_or(0);
            if number <= before {
                return Err(s3_error!(InvalidPartOrder));
            }
            before = number;
            let part = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if completed
                .e_tag
                .as_ref()
                .is_none_or(|etag| etag.value() != hex(&part.md5))
            {
                return Err(s3_error!(InvalidPart));
            }
            if at + 1 < listed.len() && part.data.len() < self.rules.part_bytes_min {
                return Err(s3_error!(EntityTooSmall));
            }
            data.extend_from_slice(&part.data);
            sums.extend_from_slice(&part.md5);
        }
        Ok(StoredObject {
            data: data.freeze(),
            etag: format!("{}-{}", hex(&md5(&sums)), listed.len()),
            modified: SystemTime::now(),
            generation: 0,
            metadata: upload.metadata.clone(),
            content_type: upload.content_type.clone(),
            checksum: Checksum::default(),
        })
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

fn check_read(
    object: &StoredObject,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    if_modified_since: Option<&Timestamp>,
    if_unmodified_since: Option<&Timestamp>,
) -> S3Result<()> {
    if if_match.is_some_and(|condition| !matches_etag(condition, &object.etag)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if if_none_match.is_some_and(|condition| matches_etag(condition, &object.etag)) {
        return Err(s3_error!(NotModified));
    }
    // HTTP dates have whole seconds, so the comparison must too.
    let modified = whole_seconds(object.modified);
    if if_match.is_none() && if_unmodified_since.is_some_and(|since| modified > Timestamp::clone(since)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if if_none_match.is_none() && if_modified_since.is_some_and(|since| modified <= Timestamp::clone(since)) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

fn whole_seconds(time: SystemTime) -> Timestamp {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since_epoch.as_secs())).into()
}

fn matches_etag(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
}

fn check_md5(data: &[u8], sent: Option<&str>) -> S3Result<()> {
    match sent {
        Some(sent) if sent != base64::encode(&md5(data)) => Err(s3_error!(BadDigest, "the Content-MD5 did not match")),
        _ => Ok(()),
    }
}

/// Streaming uploads send their checksum after the body.
fn take_trailing(sums: &mut Checksum, trailers: Option<&s3s::TrailingHeaders>) {
    let Some(trailers) = trailers else { return };
    trailers.read(|headers| {
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        sums.checksum_crc32 = sums.checksum_crc32.take().or_else(|| text("x-amz-checksum-crc32"));
        sums.checksum_crc32c = sums.checksum_crc32c.take().or_else(|| text("x-amz-checksum-crc32c"));
        sums.checksum_crc64nvme = sums
            .checksum_crc64nvme
            .take()
            .or_else(|| text("x-amz-checksum-crc64nvme"));
        sums.checksum_sha1 = sums.checksum_sha1.take().or_else(|| text("x-amz-checksum-sha1"));
        sums.checksum_sha256 = sums.checksum_sha256.take().or_else(|| text("x-amz-checksum-sha256"));
    });
}

fn check_sums(data: &[u8], sent: &Checksum) -> S3Result<()> {
    let mut hasher = ChecksumHasher {
        crc32: sent.checksum_crc32.is_some().then(Crc32::new),
        crc32c: sent.checksum_crc32c.is_some().then(Crc32c::new),
        crc64nvme: sent.checksum_crc64nvme.is_some().then(Crc64Nvme::new),
        sha1: sent.checksum_sha1.is_some().then(Sha1::new),
        sha256: sent.checksum_sha256.is_some().then(Sha256::new),
    };
    hasher.update(data);
    let ours = hasher.finalize();
    let same = ours.checksum_crc32 == sent.checksum_crc32
        && ours.checksum_crc32c == sent.checksum_crc32c
        && ours.checksum_crc64nvme == sent.checksum_crc64nvme
        && ours.checksum_sha1 == sent.checksum_sha1
        && ours.checksum_sha256 == sent.checksum_sha256;
    if same {
        Ok(())
    } else {
        Err(s3_error!(BadDigest, "a checksum did not match"))
    }
}

fn md5(data: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    sum.copy_from_slice(Md5::checksum(data).as_ref());
    sum
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn to_usize(value: u64) -> S3Result<usize> {
    usize::try_from(value).map_err(|_| s3_error!(InvalidRange))
}
