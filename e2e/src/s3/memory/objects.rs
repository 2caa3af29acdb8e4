//! What the S3 server can do, operation by operation: buckets and whole objects here, pages of [`super::listing`] and parts
//! of [`super::multipart`] by name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::conditions::check_read;
use super::sums::{check_md5, check_sums, hex, md5, take_trailing};
use super::{IfGeneration, Memory, StoredObject, collect, source_object, to_usize, versioned};

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
        let (if_match, if_none_match) = self.rules.conditions.taken(input.if_match, input.if_none_match)?;
        state.check_write(
            &input.bucket,
            &input.key,
            if_match.as_ref(),
            if_none_match.as_ref(),
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
        Ok(S3Response::new(self.list(req)?))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.begin(req)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.take_part(req).await
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.copy_part(req)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.complete(req)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.abort(req)
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.parts(req)
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.uploads(req)
    }
}
