//! Conditions on writes and reads, decided under the bucket's lock.

use std::time::SystemTime;

use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use super::{Conditions, IfGeneration, State, StoredObject};

impl Conditions {
    /// What is left of a write's conditions, as this store takes them.
    pub(super) fn taken(
        self,
        if_match: Option<ETagCondition>,
        if_none_match: Option<ETagCondition>,
    ) -> S3Result<(Option<ETagCondition>, Option<ETagCondition>)> {
        match self {
            Self::Honoured => Ok((if_match, if_none_match)),
            Self::Ignored => Ok((None, None)),
            Self::Refused if if_match.is_none() && if_none_match.is_none() => Ok((None, None)),
            Self::Refused => Err(s3_error!(NotImplemented)),
        }
    }
}

impl State {
    pub(super) fn check_write(
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

pub(super) fn check_read(
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
