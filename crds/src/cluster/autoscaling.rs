//! Whether and how the number of nodes follows the load.
//!
//! In mode Operator the wish stands in the status and never in the spec, so that a GitOps tool has nothing to put back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{Period, Size};
use crate::rule::{INVALID, REQUIRED, rule, rules, value};
use crate::section::section;

/// Who decides how many nodes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum AutoscalingMode {
    /// spec.replicas, written by a person.
    #[default]
    Disabled,
    /// The operator, from the nodes' own signals.
    Operator,
    /// HPA or KEDA, through the scale subresource.
    External,
}

section! {
    /// Whether and how the number of nodes follows the load.
    #[schemars(extend("x-kubernetes-validations" = rules([
        rule(
            INVALID,
            ".maxReplicas",
            "must be at least minReplicas",
            format!("{} >= {}", value("self", "maxReplicas", "12"), value("self", "minReplicas", "3")),
        ),
        rule(
            REQUIRED,
            ".targets",
            "with mode Operator name at least one target, or leave targets out for the usual ones",
            "!has(self.mode) || self.mode != 'Operator' || !has(self.targets) || has(self.targets.ingestBytesPerSecond) || \
             has(self.targets.cpuUtilization) || has(self.targets.memoryUtilization) || has(self.targets.diskUtilization) || \
             has(self.targets.queryQueueDepth)",
        ),
    ])))]
    pub struct Autoscaling {
        /// Who decides. Change: live.
        mode: AutoscalingMode = AutoscalingMode::Disabled,
        /// Never fewer nodes than this; never fewer than the replication factor, the voters and the zones either. Change:
        /// live.
        #[schemars(range(min = 1, max = 200))]
        min_replicas: i32 = 3,
        /// Never more nodes than this. Change: live.
        #[schemars(range(min = 1, max = 200))]
        max_replicas: i32 = 12,
        /// The load of one node that is aimed at; only with mode Operator. Default: ingestBytesPerSecond 20Mi,
        /// cpuUtilization 65, memoryUtilization 75, diskUtilization 70, queryQueueDepth 20; where targets is written, only
        /// what it names counts. Change: live.
        targets: Option<Targets> = None,
        /// How nodes are added.
        scale_up: ScaleUp = ScaleUp::default(),
        /// How nodes are taken away.
        scale_down: ScaleDown = ScaleDown::default(),
    }
}

section! {
    /// The load of one node that is aimed at.
    pub struct Targets {
        /// OTLP bytes per second, decompressed. Default: not looked at. Change: live.
        ingest_bytes_per_second: Option<Size> = None,
        /// Per cent of the CPU requested. Default: not looked at. Change: live.
        #[schemars(range(min = 1, max = 100))]
        cpu_utilization: Option<i32> = None,
        /// Per cent of the memory limit. Default: not looked at. Change: live.
        #[schemars(range(min = 1, max = 100))]
        memory_utilization: Option<i32> = None,
        /// Per cent of the log's quota. Default: not looked at. Change: live.
        #[schemars(range(min = 1, max = 100))]
        disk_utilization: Option<i32> = None,
        /// Queries that wait. Default: not looked at. Change: live.
        #[schemars(range(min = 1, max = 100000))]
        query_queue_depth: Option<i32> = None,
    }
}

impl Targets {
    /// What counts where nothing is written.
    pub fn usual() -> Self {
        Self {
            ingest_bytes_per_second: Some(Size::new("20Mi")),
            cpu_utilization: Some(65),
            memory_utilization: Some(75),
            disk_utilization: Some(70),
            query_queue_depth: Some(20),
        }
    }
}

section! {
    /// How nodes are added.
    pub struct ScaleUp {
        /// The load counts only where it has been above the target this long; rejected spans count at once. Change: live.
        stabilization: Period = Period::new("60s"),
        /// Nodes that may be added in one decision. Change: live.
        #[schemars(range(min = 1, max = 20))]
        max_step: i32 = 3,
        /// Time between two decisions to add. Change: live.
        cooldown: Period = Period::new("3m"),
    }
}

section! {
    /// How nodes are taken away: always one at a time, each after it handed over its data.
    pub struct ScaleDown {
        /// Off: nodes are only added. Change: live.
        enabled: bool = true,
        /// The load counts only where it has been below the target this long. Change: live.
        stabilization: Period = Period::new("30m"),
        /// Nodes that may be taken away in one decision. Change: live.
        #[schemars(range(min = 1, max = 5))]
        max_step: i32 = 1,
        /// Time between two decisions to take away. Change: live.
        cooldown: Period = Period::new("15m"),
    }
}
