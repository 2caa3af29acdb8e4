//! Everything that can be set on a node, as one YAML file.
//!
//! ```
//! let settings = settings::parse("flush: {tail_age: 30s}\nlimits: {tenants: {acme: {retention: 3d}}}").unwrap();
//! assert_eq!(settings.flush.tail_age, settings::Period::secs(30));
//! assert_eq!(settings.limits.of("acme").retention, settings::Period::days(3));
//! assert_eq!(settings.limits.of("other").retention, settings::Period::days(14));
//! ```
//!
//! Owns [`NodeSettings`] and its sections. The node reads it from a file ([`load`]); the operator builds one, checks it
//! with [`NodeSettings::validate`] and prints it with [`NodeSettings::to_yaml`].
//!
//! **Always holds:** settings hold no secret and no live component, so they may be printed and compared; an unknown key,
//! a duplicate key or a quantity without a unit is refused; what is printed reads back equal; an empty file is the
//! defaults. **Not here:** the environment and the command line (the server reads both once, in `main`).

pub mod cluster;
mod file;
#[doc(hidden)]
pub mod fuzzing;
pub mod lifecycle;
pub mod limits;
pub mod listen;
pub mod node;
mod problem;
pub mod quantity;
pub mod query;
mod section;
mod shape;
pub mod storage;

pub use cluster::{ClusterSettings, PeerTlsSettings};
pub use file::{check_secret_files, load, parse};
pub use lifecycle::{CompactionSettings, FlushSettings, RetentionSettings};
pub use limits::{LimitSettings, Limits, LimitsPatch};
pub use problem::{Problem, SettingsError};
pub use quantity::{ByteSize, Period};

use listen::{ListenSettings, TenancySettings};
use node::{IdentitySettings, LogSettings, MemorySettings, ReplicationSettings, ShardSettings, WalSettings};
use problem::Problems;
use query::QuerySettings;
use section::section;
use storage::StorageSettings;

section! {
    /// All settings of one node.
    pub struct NodeSettings {
        /// Who this node is and where its disk is.
        node: IdentitySettings = IdentitySettings::default(),
        /// Addresses and connection limits.
        listen: ListenSettings = ListenSettings::default(),
        /// The other nodes.
        cluster: ClusterSettings = ClusterSettings::default(),
        /// Who owns a span.
        tenancy: TenancySettings = TenancySettings::default(),
        /// The object store.
        storage: StorageSettings = StorageSettings::default(),
        /// What a tenant may do.
        limits: LimitSettings = LimitSettings::default(),
        /// How spans are spread.
        shards: ShardSettings = ShardSettings::default(),
        /// How batches become log entries.
        replication: ReplicationSettings = ReplicationSettings::default(),
        /// The log on disk.
        wal: WalSettings = WalSettings::default(),
        /// When live spans become a block.
        flush: FlushSettings = FlushSettings::default(),
        /// Merging blocks.
        compaction: CompactionSettings = CompactionSettings::default(),
        /// Deleting blocks.
        retention: RetentionSettings = RetentionSettings::default(),
        /// Queries.
        query: QuerySettings = QuerySettings::default(),
        /// Budgets of memory.
        memory: MemorySettings = MemorySettings::default(),
        /// Log lines.
        log: LogSettings = LogSettings::default(),
    }
}

impl NodeSettings {
    /// Checks every rule that needs no disk and no network, and reports all that is wrong at once.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let mut problems = Problems::default();
        // Destructured without `..`: a new section does not compile until it is checked here.
        let Self {
            node,
            listen,
            cluster,
            tenancy,
            storage,
            limits,
            shards,
            replication,
            wal,
            flush,
            compaction,
            retention,
            query,
            memory,
            log,
        } = self;
        problems.at("node", |problems| node.check(problems));
        problems.at("listen", |problems| listen.check(problems));
        problems.at("cluster", |problems| cluster.check(problems, listen.peer));
        problems.at("tenancy", |problems| tenancy.check(problems));
        problems.at("storage", |problems| storage.check(problems));
        limits.check(&mut problems);
        problems.at("shards", |problems| shards.check(problems));
        problems.at("replication", |problems| replication.check(problems));
        problems.at("wal", |problems| wal.check(problems));
        problems.at("flush", |problems| flush.check(problems, wal.quota_bytes));
        problems.at("compaction", |problems| compaction.check(problems));
        problems.at("retention", |problems| retention.check(problems, query.longest()));
        problems.at("query", |problems| query.check(problems));
        problems.at("memory", |problems| memory.check(problems));
        problems.at("log", |problems| log.check(problems));
        problems.into_result()
    }

    /// The settings as the YAML that [`parse`] reads back to an equal value.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("settings are maps of text, numbers and booleans, which YAML can hold")
    }
}
