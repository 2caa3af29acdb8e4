//! Checksums of bodies, as S3 checks them: a wrong one is refused, because a client that gets away with it here would
//! store something else than it meant in a real bucket.

use std::fmt::Write as _;

use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::Checksum;
use s3s::{S3Result, s3_error};

use crate::base64;

pub(super) fn check_md5(data: &[u8], sent: Option<&str>) -> S3Result<()> {
    match sent {
        Some(sent) if sent != base64::encode(&md5(data)) => Err(s3_error!(BadDigest, "the Content-MD5 did not match")),
        _ => Ok(()),
    }
}

/// Streaming uploads send their checksum after the body.
pub(super) fn take_trailing(sums: &mut Checksum, trailers: Option<&s3s::TrailingHeaders>) {
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

pub(super) fn check_sums(data: &[u8], sent: &Checksum) -> S3Result<()> {
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

pub(super) fn md5(data: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    sum.copy_from_slice(Md5::checksum(data).as_ref());
    sum
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
