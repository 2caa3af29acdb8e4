//! What everything is called: labels, annotations, objects, ports.
//!
//! Always holds: a selector uses [`selector`] only, which never changes for the life of a cluster; labels that change (the
//! version) stand beside it and never in it.

use std::collections::BTreeMap;

/// The name under which we apply: one field manager for everything.
pub const MANAGER: &str = "tracing-operator";
/// Our finalizer.
pub const FINALIZER: &str = "tracing.vivace.dev/cleanup";

/// Port of OTLP over gRPC in the container.
pub const OTLP_GRPC: i32 = 4317;
/// Port of OTLP over HTTP in the container.
pub const OTLP_HTTP: i32 = 4318;
/// Port of queries, status and metrics in the container.
pub const QUERY: i32 = 3200;
/// Port on which nodes speak with each other.
pub const PEER: i32 = 7946;
/// Port of the admin API.
pub const ADMIN: i32 = 3300;

/// Labels of Kubernetes.
pub const NAME: &str = "app.kubernetes.io/name";
pub const INSTANCE: &str = "app.kubernetes.io/instance";
pub const COMPONENT: &str = "app.kubernetes.io/component";
pub const PART_OF: &str = "app.kubernetes.io/part-of";
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const VERSION: &str = "app.kubernetes.io/version";

/// Selects what we made.
pub const MANAGED_BY_US: &str = "app.kubernetes.io/managed-by=tracing-operator";

/// Our labels.
pub const CLUSTER: &str = "tracing.vivace.dev/cluster";
pub const ZONE: &str = "tracing.vivace.dev/zone";
pub const TENANT: &str = "tracing.vivace.dev/tenant";

/// Annotations that we write.
pub const POD_HASH: &str = "tracing.vivace.dev/pod-hash";
pub const APPLIED: &str = "tracing.vivace.dev/applied";
pub const RESTARTED_AT: &str = "tracing.vivace.dev/restarted-at";
pub const RETIRED: &str = "tracing.vivace.dev/retired";
pub const RETIRED_AT: &str = "tracing.vivace.dev/retired-at";

/// Annotations that people write.
pub const PAUSED: &str = "tracing.vivace.dev/paused";
pub const RESTART: &str = "tracing.vivace.dev/restart";
pub const KUBECTL_RESTART: &str = "kubectl.kubernetes.io/restartedAt";
pub const RETIRE: &str = "tracing.vivace.dev/retire";
pub const FORCE_REMOVE: &str = "tracing.vivace.dev/force-remove";
pub const FINALIZE: &str = "tracing.vivace.dev/finalize";
pub const RENEW_CA: &str = "tracing.vivace.dev/renew-ca";

/// Value of the name label and of "part of".
pub const APP: &str = "tracing";
/// Component of the nodes.
pub const STORAGE: &str = "storage";
/// Component of the Job that empties the bucket.
pub const PURGE: &str = "purge";
/// The container the node runs in.
pub const CONTAINER: &str = "node";
/// The group of pods where no zones are written.
pub const POOL: &str = "node";

/// Labels that select the pods of a cluster.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(NAME, APP), (INSTANCE, cluster), (COMPONENT, STORAGE)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Labels of every object that belongs to a cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    [
        (NAME, APP),
        (INSTANCE, cluster),
        (PART_OF, APP),
        (MANAGED_BY, MANAGER),
        (CLUSTER, cluster),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Label selector for a list of everything that belongs to a cluster.
pub fn list_selector(cluster: &str) -> String {
    format!("{CLUSTER}={cluster},{MANAGED_BY}={MANAGER}")
}

/// A StatefulSet's name, a dash and ten characters of revision are a label, which takes 63.
const SET_MAX: usize = 52;

/// The group of a zone: its name, or its beginning and a hash where that would be too long for a StatefulSet's name.
pub fn group(cluster: &str, zone: &str) -> String {
    let room = SET_MAX.saturating_sub(cluster.len() + 1);
    if zone.len() <= room {
        return zone.to_owned();
    }
    let hash = twox_hash::XxHash3_64::oneshot(zone.as_bytes()) & 0xffff;
    let kept = zone
        .get(..room.saturating_sub(5))
        .unwrap_or_default()
        .trim_end_matches('-');
    format!("{kept}-{hash:04x}")
}

/// StatefulSet of a group, and of its pods the name before the ordinal.
pub fn set(cluster: &str, group: &str) -> String {
    format!("{cluster}-{group}")
}

/// Pod of a group.
pub fn pod(cluster: &str, group: &str, ordinal: u32) -> String {
    format!("{cluster}-{group}-{ordinal}")
}

/// Volume claim of a pod.
pub fn claim(pod: &str) -> String {
    format!("data-{pod}")
}

/// Ordinal of a pod of this group; `None` for any other pod.
pub fn ordinal(cluster: &str, group: &str, pod: &str) -> Option<u32> {
    let ordinal = pod.strip_prefix(&set(cluster, group))?.strip_prefix('-')?;
    // "00" would be another pod than "0".
    (ordinal == "0" || !ordinal.starts_with('0'))
        .then(|| ordinal.parse().ok())
        .flatten()
}

/// Job that empties the bucket's prefix.
pub fn purge(cluster: &str) -> String {
    format!("{cluster}-purge")
}

/// Headless Service that gives every pod a name, ready or not.
pub fn peers(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// Service for spans.
pub fn ingest(cluster: &str) -> String {
    format!("{cluster}-ingest")
}

/// Service for questions.
pub fn query(cluster: &str) -> String {
    format!("{cluster}-query")
}

/// ConfigMap with the nodes' settings.
pub fn config(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// Secret with the operator's CA.
pub fn ca(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Secret with the nodes' certificate.
pub fn peer_tls(cluster: &str) -> String {
    format!("{cluster}-peer-tls")
}

/// Name of a pod that its peers and the operator use.
pub fn host(pod: &str, cluster: &str, namespace: &str) -> String {
    format!("{pod}.{}.{namespace}.svc", peers(cluster))
}

#[cfg(test)]
mod tests {
    //! Names in, ordinals out.

    use super::*;

    #[test]
    fn ordinals_are_those_of_the_group() {
        assert_eq!(ordinal("main", "a", "main-a-0"), Some(0));
        assert_eq!(ordinal("main", "a", "main-a-12"), Some(12));
        assert_eq!(ordinal("main", "a", &pod("main", "a", 7)), Some(7));
        for other in [
            "main-b-0",
            "main-a-00",
            "main-a-",
            "main-a-x",
            "main-a",
            "main-a-b-0",
            "main-a--1",
        ] {
            assert_eq!(ordinal("main", "a", other), None, "{other}");
        }
    }

    #[test]
    fn names_of_the_longest_cluster_fit() {
        let cluster = "c".repeat(40);
        let group = group(&cluster, "northamerica-northeast1-a");
        assert_eq!(group, "northa-5bf7");
        assert_ne!(group, super::group(&cluster, "northamerica-northeast1-b"));
        assert!(set(&cluster, &group).len() <= SET_MAX);
        assert!(pod(&cluster, &group, 199).len() <= 63 && ca(&cluster).len() <= 63 && peers(&cluster).len() <= 63);
        assert_eq!(
            super::group("main", "northamerica-northeast1-a"),
            "northamerica-northeast1-a"
        );
    }
}
