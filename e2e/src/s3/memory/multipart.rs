//! Uploads in parts. What S3 refuses is refused: parts out of order, and a part under 5 MiB that is not the last.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::sums::{check_md5, check_sums, hex, md5, take_trailing};
use super::{IfGeneration, Memory, State, StoredObject, collect, source_object, to_usize, versioned};

/// S3's own limit on the number of parts.
const PARTS_MAX: i32 = 10_000;

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) bucket: String,
    pub(super) key: String,
    parts: BTreeMap<i32, StoredPart>,
    metadata: Metadata,
    content_type: Option<String>,
    pub(super) started: SystemTime,
}

#[derive(Debug)]
struct StoredPart {
    data: Bytes,
    md5: [u8; 16],
    modified: SystemTime,
    checksum: Checksum,
}

impl Memory {
    pub(super) fn begin(
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

    pub(super) async fn take_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
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

    pub(super) fn copy_part(&self, req: S3Request<UploadPartCopyInput>) -> S3Result<S3Response<UploadPartCopyOutput>> {
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

    pub(super) fn complete(
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
        let (if_match, if_none_match) = self.rules.conditions.taken(input.if_match, input.if_none_match)?;
        state.check_write(
            &input.bucket,
            &input.key,
            if_match.as_ref(),
            if_none_match.as_ref(),
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

    pub(super) fn abort(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        let mut state = self.lock();
        state.upload(&input.bucket, &input.key, &input.upload_id)?;
        state.uploads.remove(&input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(super) fn parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
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

    pub(super) fn uploads(
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

impl State {
    fn upload(&self, bucket: &str, key: &str, upload_id: &str) -> S3Result<&Upload> {
        let upload = self
            .uploads
            .get(upload_id)
            .filter(|upload| upload.bucket == bucket && upload.key == key);
        upload.ok_or_else(|| s3_error!(NoSuchUpload))
    }
}
