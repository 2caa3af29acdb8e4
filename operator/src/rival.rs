//! Whether two clusters would live under one prefix. Pure.
//!
//! The bucket's `owner.json` tells apart clusters that cannot see each other; this tells of two in one Kubernetes before any
//! of them has written anything.

use crds::TracingCluster;
use crds::cluster::storage::StorageType;
use jiff::Timestamp;
use kube::ResourceExt as _;

/// Where a cluster's blocks lie: type, host, bucket and prefix. None for a folder of its own volume.
fn place(cluster: &TracingCluster) -> Option<(String, String)> {
    let storage = &cluster.spec.storage;
    let bucket = match storage.r#type {
        StorageType::S3 => {
            let s3 = storage.s3.as_ref()?;
            format!(
                "s3 {} {}",
                s3.endpoint.as_deref().unwrap_or_default().trim_end_matches('/'),
                s3.bucket
            )
        }
        StorageType::GCS => format!("gcs {}", storage.gcs.as_ref()?.bucket),
        StorageType::Azure => {
            let azure = storage.azure.as_ref()?;
            format!("azure {} {}", azure.account, azure.container)
        }
        StorageType::Filesystem => return None,
    };
    let own = format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any());
    let prefix = storage
        .prefix
        .clone()
        .filter(|prefix| !prefix.is_empty())
        .unwrap_or(own);
    // A prefix around another one holds its blocks too.
    Some((bucket, format!("{}/", prefix.trim_matches('/'))))
}

/// The older of two counts; one that has made its ring counts before one that has not.
fn rank(cluster: &TracingCluster) -> (bool, Timestamp, String, String) {
    let has_begun = cluster.status.as_ref().is_some_and(|status| status.bootstrapped);
    let created = cluster.creation_timestamp().map_or(Timestamp::MAX, |time| time.0);
    (
        !has_begun,
        created,
        cluster.namespace().unwrap_or_default(),
        cluster.name_any(),
    )
}

/// The cluster that was there first, as namespace and name.
pub fn rival(cluster: &TracingCluster, others: &[TracingCluster]) -> Option<String> {
    let (bucket, prefix) = place(cluster)?;
    let is_in_the_way = |other: &&TracingCluster| {
        let is_itself = other.namespace() == cluster.namespace() && other.name_any() == cluster.name_any();
        let overlaps = place(other).is_some_and(|(its_bucket, its_prefix)| {
            its_bucket == bucket && (its_prefix.starts_with(&prefix) || prefix.starts_with(&its_prefix))
        });
        !is_itself && overlaps && rank(other) < rank(cluster)
    };
    let first = others.iter().filter(is_in_the_way).min_by_key(|other| rank(other))?;
    Some(format!(
        "{}/{}",
        first.namespace().unwrap_or_default(),
        first.name_any()
    ))
}

#[cfg(test)]
mod tests {
    //! Clusters in, who was there first out.

    use super::*;

    fn cluster(name: &str, created: &str, storage: &str) -> TracingCluster {
        let text = format!(
            "{{apiVersion: x, kind: y, metadata: {{name: {name}, namespace: a, creationTimestamp: '{created}'}}, spec: {{storage: \
             {{{storage}}}}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    #[test]
    fn the_older_of_two_under_one_prefix_counts() {
        let s3 = |prefix: &str| format!("type: S3, s3: {{bucket: b}}, prefix: {prefix}");
        let old = cluster("old", "2026-01-01T00:00:00Z", &s3("x/y"));
        for (storage, wanted) in [
            (s3("x/y"), true),
            (s3("x/y/"), true),
            (s3("x"), true),
            (s3("x/y/z"), true),
            (s3("x/yy"), false),
            (s3("x/z"), false),
            ("type: S3, s3: {bucket: c}, prefix: x/y".to_owned(), false),
            (
                "type: S3, s3: {bucket: b, endpoint: 'http://other'}, prefix: x/y".to_owned(),
                false,
            ),
            ("type: GCS, gcs: {bucket: b}, prefix: x/y".to_owned(), false),
            ("type: Filesystem".to_owned(), false),
        ] {
            let young = cluster("young", "2026-01-02T00:00:00Z", &storage);
            let both = [old.clone(), young.clone()];
            assert_eq!(rival(&young, &both).as_deref(), wanted.then_some("a/old"), "{storage}");
            assert_eq!(rival(&old, &both), None, "{storage}");
        }
    }

    #[test]
    fn prefixes_that_are_not_written_are_different() {
        let clusters = ["one", "two"].map(|name| cluster(name, "2026-01-01T00:00:00Z", "type: S3, s3: {bucket: b}"));
        assert_eq!(rival(&clusters[0], &clusters), None);
        assert_eq!(rival(&clusters[1], &clusters), None);
    }

    #[test]
    fn one_that_has_begun_counts_before_an_older_one_that_has_not() {
        let storage = "type: S3, s3: {bucket: b}, prefix: x";
        let old = cluster("old", "2026-01-01T00:00:00Z", storage);
        let mut young = cluster("young", "2026-01-02T00:00:00Z", storage);
        young.status = Some(crds::TracingClusterStatus {
            bootstrapped: true,
            ..Default::default()
        });
        let both = [old.clone(), young.clone()];
        assert_eq!(
            (rival(&old, &both).as_deref(), rival(&young, &both)),
            (Some("a/young"), None)
        );
    }
}
