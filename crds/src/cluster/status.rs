//! What the operator says about a cluster.
//!
//! Owns [`TracingClusterStatus`]. Tools read `conditions`; people read `phase`. [`Operation`] is the lock under which every
//! disruption happens: it is written before anything is done, and whoever leads next goes on from it. [`GroupStatus`] is
//! the other thing that is remembered: how many pods each zone shall have, so that pods nobody saw are never taken for
//! pods nobody wants.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::placement::ClusterSize;

/// Declares a part of the status: every field may be absent.
macro_rules! part {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "is_absent")] pub $field: $type,)*
        }
    };
}

/// Absent values are not written: a status says what is known.
trait Absent {
    fn absent(&self) -> bool;
}

fn is_absent(value: &impl Absent) -> bool {
    value.absent()
}

impl<T> Absent for Option<T> {
    fn absent(&self) -> bool {
        self.is_none()
    }
}

impl<T> Absent for Vec<T> {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Absent for BTreeMap<K, V> {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}

/// Numbers and texts that are always said.
macro_rules! always_said {
    ($($type:ty),*) => { $(impl Absent for $type { fn absent(&self) -> bool { false } })* };
}
always_said!(i32, i64, bool, String, OperationKind, MemberState, Role);

part! {
    /// What the operator knows about a cluster.
    pub struct TracingClusterStatus {
        /// Generation of the spec that this status is about.
        observed_generation: Option<i64>,
        /// In one word, for people.
        phase: Option<String>,
        /// Pods there are.
        replicas: i32,
        /// Pods that serve.
        ready_replicas: i32,
        /// Label selector of the pods, for the scale subresource.
        selector: Option<String>,
        /// Version that every node runs; the older one while some differ.
        version: Option<String>,
        /// Version that nodes are being brought to, while some differ.
        target_version: Option<String>,
        /// Version of the operator that wrote this.
        operator_version: Option<String>,
        /// Level of formats on disk and on the wire that is switched on.
        format_version: Option<i32>,
        /// Version whose formats are switched on; an older one cannot come back.
        finalized_version: Option<String>,
        /// Identity of the cluster, minted once, before its first node is initialised.
        #[serde(rename = "clusterID")]
        cluster_id: Option<String>,
        /// Whether the ring has been made; it is never made a second time without being asked for.
        bootstrapped: bool,
        /// The state of things, one by one.
        #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
        conditions: Vec<Condition>,
        /// What holds after size and defaults.
        effective: Option<Effective>,
        /// How many pods each zone shall have; changes only under an operation.
        #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
        groups: Vec<GroupStatus>,
        /// Shards, chosen once.
        shards: Option<i32>,
        /// The group that agrees on membership.
        raft: Option<RaftStatus>,
        /// Shards and their copies.
        ring: Option<RingStatus>,
        /// The nodes.
        #[schemars(length(max = 400), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
        members: Vec<MemberStatus>,
        /// What was decided about the number of nodes.
        autoscaling: Option<AutoscalingStatus>,
        /// The lock: what is going on that disturbs nodes.
        operation: Option<Operation>,
        /// Raft ids of nodes that are gone for good; they never come back.
        #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
        retired: Vec<String>,
        /// Where to send spans and ask questions.
        endpoints: Option<Endpoints>,
        /// The bucket.
        storage: Option<StorageStatus>,
        /// Certificates and their ends.
        #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
        certificates: Vec<CertificateStatus>,
        /// Data sources in Grafana.
        #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "atomic"))]
        datasources: Vec<DatasourceStatus>,
        /// TracingTenants of this cluster.
        tenants: Option<TenantsStatus>,
        /// Value of the annotation tracing.vivace.dev/restart that the running pods carry.
        restarted_at: Option<String>,
    }
}

part! {
    /// What holds after size and defaults.
    pub struct Effective {
        /// Size whose defaults were filled in.
        size: Option<ClusterSize>,
        /// Nodes wanted.
        replicas: Option<i32>,
        /// Copies of spans that are not in the bucket yet.
        replication_factor: Option<i32>,
        /// Nodes that vote.
        voters: Option<i32>,
        /// Image of the nodes.
        image: Option<String>,
        /// How long spans are kept where a tenant says nothing.
        retention: Option<String>,
        /// Folder in the bucket.
        prefix: Option<String>,
        /// Size of one volume.
        volume_size: Option<String>,
        /// CPU and memory of one node.
        resources: Option<ResourceRequirements>,
    }
}

part! {
    /// One zone, or the one pool where no zones are written.
    pub struct GroupStatus {
        /// Name of the zone, shortened where pods' names would be too long; "node" for the one pool.
        name: String,
        /// Pods it shall have.
        pods: i32,
    }
}

part! {
    /// The group that agrees on membership.
    pub struct RaftStatus {
        /// Pod that leads.
        leader: Option<String>,
        /// Its term.
        term: Option<i64>,
        /// Last index agreed on.
        commit_index: Option<i64>,
        /// Pods that vote.
        voters: Vec<String>,
        /// Number of members that follow.
        learners: i32,
    }
}

part! {
    /// Shards and their copies.
    pub struct RingStatus {
        /// Counts changes of the shard map.
        epoch: i64,
        /// All shards.
        shards: i32,
        /// Shards with every copy alive.
        healthy: i32,
        /// Shards with a copy missing.
        under_replicated: i32,
        /// Shards without a majority.
        unavailable: i32,
        /// Shards on their way to other nodes.
        moving: i32,
        /// The worst off, at most ten.
        #[schemars(length(max = 10))]
        worst: Vec<ShardStatus>,
    }
}

part! {
    /// One shard that is not well.
    pub struct ShardStatus {
        /// Number of the shard.
        id: i32,
        /// Copies alive.
        live: i32,
        /// Copies wanted.
        want: i32,
        /// Pods that hold it.
        #[schemars(length(max = 10))]
        owners: Vec<String>,
    }
}

/// Where a node stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// Follows, and is not caught up.
    Joining,
    /// Holds shards.
    Active,
    /// Hands over what it holds.
    Leaving,
    /// Holds nothing that anybody needs.
    Drained,
    /// Given up with its volume; its shards are made anew elsewhere.
    Lost,
    /// Does not answer, or has not joined yet.
    #[default]
    Unreachable,
}

/// Whether a node votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    #[default]
    None,
    Learner,
    Voter,
}

part! {
    /// One node.
    pub struct MemberStatus {
        /// Its pod.
        pod: String,
        /// Its zone.
        zone: Option<String>,
        /// Its id in the ring; a new disk is a new id.
        #[serde(rename = "raftID")]
        raft_id: Option<String>,
        /// Where it stands.
        state: MemberState,
        /// Whether it votes.
        role: Role,
        /// Whether its pod is ready.
        ready: bool,
        /// Version it runs.
        version: Option<String>,
        /// Entries it is behind the leader.
        lag: Option<i64>,
        /// Shards it holds.
        shards: Option<i32>,
        /// Bytes of log that are not in the bucket yet.
        wal_bytes: Option<i64>,
        /// Its volume claim.
        pvc: Option<String>,
        /// Since when it has no volume, where that is so.
        lost_since: Option<Time>,
    }
}

part! {
    /// What was decided about the number of nodes.
    pub struct AutoscalingStatus {
        /// Nodes wanted; with mode Operator this is the wish.
        desired_replicas: i32,
        /// When that last changed.
        last_scale_time: Option<Time>,
        /// When it last went up, which holds back going down.
        last_scale_up_time: Option<Time>,
        /// Why.
        reason: Option<String>,
        /// What was looked at.
        #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
        signals: Vec<SignalStatus>,
        /// Recommendations inside the longer of the two stabilisation windows, newest last, thinned out.
        #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
        recommendations: Vec<Recommendation>,
    }
}

part! {
    /// One signal.
    pub struct SignalStatus {
        /// What it measures.
        name: String,
        /// Its value per node.
        current: i64,
        /// What is aimed at.
        target: i64,
    }
}

part! {
    /// How many nodes the load asked for in one slice of time.
    pub struct Recommendation {
        /// When the slice began.
        at: Option<Time>,
        /// The least that was asked for in it.
        low: i32,
        /// The most that was asked for in it.
        high: i32,
    }
}

/// What disturbs nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub enum OperationKind {
    #[default]
    None,
    Bootstrap,
    ScaleUp,
    ScaleDown,
    Upgrade,
    Replace,
    Resize,
    RotateCA,
}

part! {
    /// The lock: what is going on that disturbs nodes.
    pub struct Operation {
        /// Kind; a new one starts only when this is None.
        kind: OperationKind,
        /// The pod it is about, where it is about one.
        target: Option<String>,
        /// Raft id of the member it is about, where that matters after the pod has a new one.
        #[serde(rename = "targetID")]
        target_id: Option<String>,
        /// Uid of the pod that is to go, so that its successor is not taken for it.
        #[serde(rename = "targetUID")]
        target_uid: Option<String>,
        /// What is done next.
        step: Option<String>,
        /// When it began.
        started_at: Option<Time>,
        /// When this step began.
        step_started_at: Option<Time>,
        /// How often something was done in it; every act counts before it happens.
        attempts: i32,
    }
}

part! {
    /// Where to send spans and ask questions, inside the cluster and outside.
    pub struct Endpoints {
        /// host:port for OTLP over gRPC.
        otlp_grpc: Option<String>,
        /// URL for OTLP over HTTP.
        otlp_http: Option<String>,
        /// URL for queries.
        query: Option<String>,
        /// URLs from outside.
        #[schemars(length(max = 32))]
        external: Vec<String>,
    }
}

part! {
    /// The bucket.
    pub struct StorageStatus {
        /// When a node last looked.
        last_probe: Option<Time>,
        /// Bytes under the prefix.
        used_bytes: Option<i64>,
    }
}

part! {
    /// A certificate and its end.
    pub struct CertificateStatus {
        /// What it is for: ca or peer.
        name: String,
        /// Its end.
        not_after: Option<Time>,
    }
}

part! {
    /// A data source in Grafana.
    pub struct DatasourceStatus {
        /// Where it is: operator, sidecar or the URL of a Grafana.
        target: String,
        /// Whose spans it shows; * for the cluster's own.
        tenant: String,
        /// Its uid.
        uid: String,
        /// Synced, Pending or Failed.
        state: String,
        /// What is wrong and what to do.
        message: Option<String>,
    }
}

part! {
    /// TracingTenants of this cluster.
    pub struct TenantsStatus {
        /// All of them.
        total: i32,
        /// Those in effect on every node.
        synced: i32,
        /// Those that were refused.
        rejected: i32,
    }
}
