//! LIST: pages, common prefixes, and how the bucket stood some mutations ago.

use std::collections::BTreeMap;

use s3s::dto::{CommonPrefix, ETag, ListObjectsV2Input, ListObjectsV2Output, Object};
use s3s::{S3Request, S3Result};

use super::{Memory, StaleBy, State, StoredObject};

impl State {
    /// The bucket's listing (key → etag, size, time) with the last `stale_by` mutations undone.
    pub(super) fn listing(&self, bucket: &str, stale_by: u64) -> S3Result<BTreeMap<String, StoredObject>> {
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
}

impl Memory {
    /// One page.
    pub(super) fn list(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<ListObjectsV2Output> {
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
        Ok(ListObjectsV2Output {
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
        })
    }
}
