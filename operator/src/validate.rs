//! From what is written to what is wanted: a resource with its defaults filled in, checked once, and a type that says so.
//!
//! Owns [`Cluster`], which everything after it reads instead of the resource, and [`Environment`], what the operator itself
//! was given. Pure. What the schema's rules have refused already is not asked again; what is refused here is what needs
//! arithmetic over sections or the node's own rules. **Always holds:** the settings in a [`Cluster`] have been validated by
//! the code that the node validates them with.
//! Not here: whether a Secret exists, whether the version may be had from the one that runs (they need a look: plan).

mod settings_of;
mod sizes;

use std::collections::{BTreeMap, BTreeSet};

use crds::cluster::autoscaling::AutoscalingMode;
use crds::cluster::placement::ClusterSize;
use crds::cluster::security::TlsMode;
use crds::cluster::storage::StorageType;
use crds::{Period, QuantityError, TracingCluster, TracingClusterSpec};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use settings::NodeSettings;

use crate::names;
use crate::quantity::{millis, units};
use crate::tenants::{Candidate, Tenants, resolve};
pub(crate) use settings_of::{CREDENTIALS, DATA, TLS};

/// What the operator itself was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Version of the operator, and of the nodes where nothing is written.
    pub version: String,
    /// Image of the nodes where nothing is written; with a tag or a digest it is taken as it is.
    pub node_image: String,
    /// Namespace the operator runs in, for NetworkPolicies.
    pub namespace: String,
}

/// What was looked up for a resource before it is checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lookups {
    /// Every TracingTenant that names this cluster.
    pub candidates: Vec<Candidate>,
    /// Keys of the Secret with the store's credentials; none where there is no such Secret.
    pub credential_keys: Option<BTreeSet<String>>,
    /// Hash of what is in that Secret.
    pub credentials_hash: Option<String>,
    /// An older TracingCluster under the same prefix of the same bucket, or around it.
    pub rival: Option<String>,
}

/// One thing to fix in the resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        if self.field == PREFIX {
            "PrefixOwnedByOther"
        } else {
            "ConfigInvalid"
        }
    }
}

/// The field in which two clusters can be in each other's way.
pub(crate) const PREFIX: &str = "spec.storage.prefix";

/// The pods of one zone, or all of them where no zones are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// As it stands in names.
    pub name: String,
    /// Value of the zone's label; none for the pool.
    pub zone: Option<String>,
}

/// A cluster as it is wanted: defaults filled in and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    pub annotations: BTreeMap<String, String>,
    /// What was written, for fields that are taken as they are.
    pub spec: TracingClusterSpec,
    /// Never empty.
    pub groups: Vec<Group>,
    /// Nodes wanted, over all groups.
    pub replicas: u32,
    pub replication_factor: u32,
    pub voters: u32,
    pub shards: u32,
    pub version: String,
    pub image: String,
    pub resources: ResourceRequirements,
    /// Thousandths of a CPU that one node asks for.
    pub cpu_millis: u64,
    /// Memory limit of one node.
    pub memory_bytes: u64,
    pub volume: Quantity,
    pub volume_bytes: u64,
    pub prefix: String,
    /// What a node is told, tenants included.
    pub settings: NodeSettings,
    pub tenants: Tenants,
    /// One node that is a whole cluster.
    pub is_single: bool,
    /// Whether raw node settings were merged in.
    pub is_overridden: bool,
    /// Hash of the Secret with the store's keys.
    pub credentials_hash: Option<String>,
    /// Whether the store's keys are temporary ones, with a session token.
    pub has_session_token: bool,
}

impl Cluster {
    /// Whether nodes have certificates. A single node has no peers to show one to.
    pub fn has_certificates(&self) -> bool {
        self.spec.tls.mode != TlsMode::Disabled && !self.is_single
    }

    /// Whether everything that changes the cluster is to stop.
    pub fn is_paused(&self) -> bool {
        self.spec.paused || self.annotations.get(names::PAUSED).is_some_and(|value| value == "true")
    }

    /// The least number of nodes with which nothing is given up.
    pub fn floor(&self) -> u32 {
        let zones = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        let zones = if self.groups.iter().any(|group| group.zone.is_some()) {
            zones
        } else {
            1
        };
        self.replication_factor.max(self.voters).max(zones)
    }

    /// How many pods each group has when all have `total`: evenly, the first groups one more.
    pub fn spread(&self, total: u32) -> Vec<u32> {
        let groups = u32::try_from(self.groups.len()).unwrap_or(1).max(1);
        (0..groups)
            .map(|index| total / groups + u32::from(index < total % groups))
            .collect()
    }
}

/// A length of time that the schema has checked; an error for one it has not seen.
pub(crate) fn period(field: &str, period: &Period, problems: &mut Vec<Problem>) -> std::time::Duration {
    checked(field, period.duration(), problems)
}

fn checked<T: Default>(field: &str, value: Result<T, QuantityError>, problems: &mut Vec<Problem>) -> T {
    value.unwrap_or_else(|error| {
        problems.push(Problem {
            field: field.to_owned(),
            message: error.to_string(),
        });
        T::default()
    })
}

/// The nodes wanted before anything is known about load: what is written, or the least that autoscaling allows.
fn replicas(spec: &TracingClusterSpec, desired: Option<u32>, by_size: u32) -> u32 {
    let at_least = |number: i32| u32::try_from(number).unwrap_or(1).max(1);
    let scaling = &spec.autoscaling;
    let (least, most) = (at_least(scaling.min_replicas), at_least(scaling.max_replicas));
    match scaling.mode {
        AutoscalingMode::Disabled => spec.replicas.map_or(by_size, at_least),
        AutoscalingMode::External => spec.replicas.map_or(least, at_least),
        AutoscalingMode::Operator => desired.unwrap_or(least).clamp(least, most.max(least)),
    }
}

/// The cluster that a resource describes, or everything that is wrong with it.
pub fn validate(
    cluster: &TracingCluster,
    lookups: &Lookups,
    environment: &Environment,
) -> Result<Cluster, Vec<Problem>> {
    let mut problems = Vec::new();
    let spec = cluster.spec.clone();
    let status = cluster.status.clone().unwrap_or_default();
    let name = cluster.name_any();
    let namespace = cluster.namespace().unwrap_or_default();
    let sizes = sizes::of(spec.size);

    let desired = status
        .autoscaling
        .as_ref()
        .and_then(|scaling| u32::try_from(scaling.desired_replicas).ok())
        .filter(|desired| *desired > 0);
    let replicas = replicas(&spec, desired, sizes.replicas);
    let replication_factor = spec
        .replication_factor
        .map_or(sizes.replication_factor, |factor| u32::try_from(factor).unwrap_or(1));
    let voters = spec.raft.voters.map_or_else(
        // An even number of voters survives no more losses than one less.
        || {
            sizes
                .voters
                .min(if replicas.is_multiple_of(2) {
                    replicas - 1
                } else {
                    replicas
                })
                .max(1)
        },
        |voters| u32::try_from(voters).unwrap_or(1),
    );
    if let Some(rival) = &lookups.rival {
        problems.push(Problem {
            field: PREFIX.to_owned(),
            message: format!(
                "TracingCluster {rival} keeps its spans there, and two would delete each other's blocks: delete this resource \
                 and make it anew with another prefix"
            ),
        });
    }
    if replicas < replication_factor {
        problems.push(Problem {
            field: "spec.replicas".to_owned(),
            message: format!(
                "{replicas} nodes cannot hold {replication_factor} copies: write at least {replication_factor}"
            ),
        });
    }
    if replicas < voters {
        problems.push(Problem {
            field: "spec.raft.voters".to_owned(),
            message: format!("{replicas} nodes cannot give {voters} votes: write at most {replicas}"),
        });
    }

    let groups = if spec.topology.zones.is_empty() {
        vec![Group {
            name: names::POOL.to_owned(),
            zone: None,
        }]
    } else {
        let zones = spec.topology.zones.iter();
        zones
            .map(|zone| Group {
                name: names::group(&name, zone),
                zone: Some(zone.clone()),
            })
            .collect()
    };

    let resources = sizes::resources(&spec.resources, &sizes);
    let amount =
        |map: &Option<BTreeMap<String, Quantity>>, key: &str| map.as_ref().and_then(|map| map.get(key)).cloned();
    let mut number = |field: &str, quantity: Option<Quantity>, read: fn(&Quantity) -> Option<u64>| match quantity {
        None => 0,
        Some(quantity) => read(&quantity).unwrap_or_else(|| {
            problems.push(Problem {
                field: field.to_owned(),
                message: format!("{:?} is not a quantity: write 500m, 2 or 4Gi", quantity.0),
            });
            0
        }),
    };
    let cpu_millis = number(
        "spec.resources.requests.cpu",
        amount(&resources.requests, "cpu"),
        millis,
    );
    let memory_request = number(
        "spec.resources.requests.memory",
        amount(&resources.requests, "memory"),
        units,
    );
    let memory_bytes = number(
        "spec.resources.limits.memory",
        amount(&resources.limits, "memory"),
        units,
    );
    if memory_request > memory_bytes {
        problems.push(Problem {
            field: "spec.resources.limits.memory".to_owned(),
            message: "must not be below requests.memory".to_owned(),
        });
    }
    const MEMORY_LEAST: u64 = 256 << 20;
    if memory_bytes < MEMORY_LEAST {
        problems.push(Problem {
            field: "spec.resources.limits.memory".to_owned(),
            message: "a node needs at least 256Mi".to_owned(),
        });
    }

    let volume = spec
        .persistence
        .size
        .clone()
        .map_or_else(|| sizes.volume.to_owned(), |size| size.0);
    let volume_bytes = checked("spec.persistence.size", crds::Size::new(&volume).bytes(), &mut problems);

    let version = spec.version.clone().unwrap_or_else(|| environment.version.clone());
    let image = image(&spec, &version, environment);
    let prefix = match spec.storage.r#type {
        // The folder is on the node's own volume and belongs to nobody else.
        StorageType::Filesystem => spec.storage.prefix.clone().unwrap_or_default(),
        _ => spec
            .storage
            .prefix
            .clone()
            .unwrap_or_else(|| format!("{namespace}/{name}")),
    };
    let shards = status
        .shards
        .and_then(|shards| u32::try_from(shards).ok())
        .filter(|shards| shards.is_power_of_two())
        .unwrap_or(sizes.shards);
    let planned: i32 = status.groups.iter().map(|group| group.pods).sum();

    let tenants = resolve(&name, &namespace, &spec, &lookups.candidates, &mut problems);
    let mut wanted = Cluster {
        uid: cluster.uid().unwrap_or_default(),
        generation: cluster.metadata.generation.unwrap_or_default(),
        annotations: cluster.annotations().clone(),
        is_single: replicas == 1 && replication_factor == 1 && voters == 1 && planned <= 1,
        is_overridden: !spec.config.is_empty(),
        credentials_hash: lookups.credentials_hash.clone(),
        has_session_token: lookups
            .credential_keys
            .as_ref()
            .is_some_and(|keys| keys.contains("session_token")),
        name,
        namespace,
        groups,
        replicas,
        replication_factor,
        voters,
        shards,
        version,
        image,
        resources,
        cpu_millis,
        memory_bytes: memory_bytes.max(MEMORY_LEAST),
        volume: Quantity(volume),
        volume_bytes,
        prefix,
        settings: NodeSettings::default(),
        tenants,
        spec,
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    match settings_of::settings_of(&wanted) {
        Ok(settings) => {
            wanted.settings = settings;
            Ok(wanted)
        }
        Err(found) => Err(found),
    }
}

/// repository:tag@digest, or the operator's own image as it is where nothing is written.
fn image(spec: &TracingClusterSpec, version: &str, environment: &Environment) -> String {
    let written = &spec.image;
    let is_default = written.repository.is_none() && written.tag.is_none() && written.digest.is_none();
    // A colon behind the last slash is a tag, one before it a port.
    let (_, last) = environment
        .node_image
        .rsplit_once('/')
        .unwrap_or(("", &environment.node_image));
    if is_default && spec.version.is_none() && (last.contains(':') || last.contains('@')) {
        return environment.node_image.clone();
    }
    let repository = match &written.repository {
        Some(repository) => repository.clone(),
        None => {
            let without_digest = environment.node_image.split('@').next().unwrap_or_default();
            match without_digest.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => repository.to_owned(),
                _ => without_digest.to_owned(),
            }
        }
    };
    let tag = written.tag.as_deref().unwrap_or(version);
    match &written.digest {
        Some(digest) => format!("{repository}:{tag}@{digest}"),
        None => format!("{repository}:{tag}"),
    }
}

/// The size that a resource names, for the status.
pub fn size(cluster: &Cluster) -> ClusterSize {
    cluster.spec.size
}

#[cfg(test)]
mod tests;
