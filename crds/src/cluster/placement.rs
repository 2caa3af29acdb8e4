//! Where nodes run and what they are given: image, size, zones, voters, volumes, CPU and memory, the pod overlay.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::free_form;
use crate::quantity::{Period, Size};
use crate::rule::{INVALID, rule, rules};
use crate::section::section;

/// A set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterSize {
    /// One node, one copy: to look at it.
    Demo,
    /// 3 nodes of 1 CPU and 2 GiB, 20 GiB volumes.
    #[default]
    Small,
    /// 6 nodes of 2 CPU and 4 GiB, 50 GiB volumes.
    Medium,
    /// 12 nodes of 4 CPU and 8 GiB, 100 GiB volumes.
    Large,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// An object of the same namespace, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

section! {
    /// The node's image: repository:tag@digest.
    pub struct Image {
        /// Registry and path. Default: what the operator was told by its environment, RELATED_IMAGE_NODE. Change: rolling
        /// restart.
        #[schemars(length(min = 1, max = 512))]
        repository: Option<String> = None,
        /// Tag. Default: the version. Change: rolling restart.
        #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
        tag: Option<String> = None,
        /// Digest; with it the tag is only for the eye. Default: none. Change: rolling restart.
        #[schemars(length(max = 71), regex(pattern = "^sha256:[a-f0-9]{64}$"))]
        digest: Option<String> = None,
        /// When the image is pulled. Change: rolling restart.
        pull_policy: PullPolicy = PullPolicy::IfNotPresent,
        /// Secrets with credentials for the registry. Default: none. Change: rolling restart.
        #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
        pull_secrets: Vec<LocalReference> = Vec::new(),
    }
}

/// How strictly two nodes are kept off one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum HostAntiAffinity {
    /// Never on one machine; a pod waits instead.
    Required,
    /// On one machine only where nothing else is free.
    #[default]
    Preferred,
    /// Wherever the scheduler likes.
    Disabled,
}

section! {
    /// Zones and machines.
    pub struct Topology {
        /// Label of a Kubernetes Node that names its zone. Change: immutable.
        #[schemars(length(min = 1, max = 317))]
        zone_key: String = "topology.kubernetes.io/zone".to_owned(),
        /// Zones to spread nodes, voters and copies over. Default: none, all nodes in one pool. Change: live, zones may be
        /// added.
        #[schemars(
            length(max = 9),
            inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
            extend("x-kubernetes-list-type" = "set")
        )]
        zones: Vec<String> = Vec::new(),
        /// Whether two nodes may share a machine. Change: rolling restart.
        host_anti_affinity: HostAntiAffinity = HostAntiAffinity::Preferred,
    }
}

section! {
    /// The group that agrees on membership, shards and the catalog.
    #[schemars(extend("x-kubernetes-validations" = rules([rule(
        INVALID,
        ".voters",
        "must be odd: 1, 3, 5 or 7; an even number of voters survives no more losses than one less",
        "!has(self.voters) || self.voters % 2 == 1",
    )])))]
    pub struct Raft {
        /// Nodes that vote; all others follow. Default: 3, from 9 nodes on 5, 1 with one or two. Change: rolling
        /// restart.
        #[schemars(range(min = 1, max = 7))]
        voters: Option<i32> = None,
    }
}

/// What happens to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumePolicy {
    Delete,
    Retain,
}

section! {
    /// The nodes' volumes.
    #[schemars(extend("x-kubernetes-validations" = rules([rule(
        INVALID,
        ".size",
        "must be at least 1Gi: the log alone needs eight segments of 64 MiB",
        "!has(self.size) || !quantity(self.size).isLessThan(quantity('1Gi'))",
    )])))]
    pub struct Persistence {
        /// Size of one node's volume; the log may take 60 % of it. Default: by size (demo 10Gi, small 20Gi, medium 50Gi,
        /// large 100Gi). Change: volumes grow in place, then a rolling restart; they never shrink.
        size: Option<Size> = None,
        /// Storage class. Default: the cluster's default class. Change: immutable.
        #[schemars(length(min = 1, max = 253))]
        storage_class_name: Option<String> = None,
        /// Access modes of the volumes. Change: immutable.
        #[schemars(
            length(min = 1, max = 2),
            inner(length(max = 16), regex(pattern = "^(ReadWriteOnce|ReadWriteOncePod|ReadWriteMany)$")),
            extend("x-kubernetes-list-type" = "atomic")
        )]
        access_modes: Vec<String> = vec!["ReadWriteOnce".to_owned()],
        /// What happens to the volume of a node that was scaled away, an hour after it handed over its data; what happens when
        /// the resource is deleted is deletionPolicy's. Change: live.
        when_scaled: VolumePolicy = VolumePolicy::Delete,
        /// How long a node may be without its volume before the operator makes it a new one; 0s never. It does so only while
        /// everything the node held has another copy. Change: live.
        auto_replace_after: Period = Period::new("30m"),
    }
}

section! {
    /// CPU and memory of one node. The node takes its budgets from the memory limit.
    pub struct Resources {
        /// What the scheduler sets aside. Default: by size (demo 250m and 512Mi, small 1 and 2Gi, medium 2 and 4Gi, large 4
        /// and 8Gi). Change: rolling restart.
        #[schemars(extend("maxProperties" = 8))]
        requests: BTreeMap<String, Quantity> = BTreeMap::new(),
        /// What a node may not exceed. Default: by size, memory only (demo 1Gi, else as requested). Change: rolling restart.
        #[schemars(extend("maxProperties" = 8))]
        limits: BTreeMap<String, Quantity> = BTreeMap::new(),
    }
}

section! {
    /// What is merged into every pod. Command, ports and probes of the container "node", the volumes "data", "config" and
    /// "tls" and our labels stay the operator's; what is written there shows as condition PodTemplateIgnored.
    pub struct PodTemplate {
        /// Labels and annotations of the pods.
        metadata: PodMetadata = PodMetadata::default(),
        /// Part of a Kubernetes PodSpec; lists of named things are merged by name. Default: nothing. Change: rolling restart.
        #[schemars(schema_with = "free_form")]
        spec: Map<String, Value> = Map::new(),
    }
}

section! {
    /// Labels and annotations.
    pub struct PodMetadata {
        /// Labels beside ours. Default: none. Change: rolling restart.
        #[schemars(extend("maxProperties" = 32))]
        labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Annotations beside ours. Default: none. Change: rolling restart.
        #[schemars(extend("maxProperties" = 32))]
        annotations: BTreeMap<String, String> = BTreeMap::new(),
    }
}
