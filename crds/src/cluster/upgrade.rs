//! How versions and settings are rolled out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Period;
use crate::section::section;

/// When pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeStrategy {
    /// As soon as they are out of date, one at a time.
    #[default]
    Automatic,
    /// When the annotation tracing.vivace.dev/restart carries a new value.
    Manual,
}

/// When new formats are switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Finalize {
    /// When every node runs the new version.
    #[default]
    Automatic,
    /// When the annotation tracing.vivace.dev/finalize carries the version; until then the old version may come back.
    Manual,
}

section! {
    /// How versions and settings are rolled out.
    pub struct Upgrade {
        /// When pods are replaced. Change: live.
        strategy: UpgradeStrategy = UpgradeStrategy::Automatic,
        /// Nodes that stay as they are, to try something on the others first. Change: live.
        #[schemars(range(min = 0, max = 200))]
        partition: i32 = 0,
        /// Seconds a replaced node must be well before the next one goes. Change: live.
        #[schemars(range(min = 0, max = 3600))]
        min_ready_seconds: i32 = 60,
        /// How long one node may take before the rollout stops and waits for a person. Change: live.
        progress_deadline: Period = Period::new("30m"),
        /// When new formats are switched on; after that the old version cannot come back. Change: live.
        finalize: Finalize = Finalize::Automatic,
        /// When rollouts may begin. Default: always. Change: live.
        maintenance_window: Option<MaintenanceWindow> = None,
    }
}

/// A time that comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MaintenanceWindow {
    /// When it opens, in UTC: minute, hour, day of month, month, day of week. Required. Change: live.
    #[schemars(length(max = 128), regex(pattern = "^([0-9*,/-]+ ){4}[0-9*,/-]+$"))]
    pub cron: String,
    /// How long it stays open; what has begun is finished. Change: live.
    #[serde(default = "two_hours")]
    pub duration: Period,
}

fn two_hours() -> Period {
    Period::new("2h")
}
