//! What people are told once: one event per transition, never one per look. Pure.

use crds::TracingClusterStatus;
use crds::cluster::status::OperationKind;

use crate::status::by_type;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    pub is_warning: bool,
    /// CamelCase, for machines.
    pub reason: String,
    /// What was being done.
    pub action: String,
    /// For people.
    pub message: String,
}

fn telling(is_warning: bool, reason: &str, action: &str, message: &str) -> Telling {
    Telling {
        is_warning,
        reason: reason.to_owned(),
        action: action.to_owned(),
        message: message.chars().take(1_000).collect(),
    }
}

/// Reason of the event that says an operation began, and of the one that says it ended.
fn names_of(kind: OperationKind) -> (&'static str, &'static str) {
    match kind {
        OperationKind::None => ("Idle", "Idle"),
        OperationKind::Bootstrap => ("Bootstrapping", "Bootstrapped"),
        OperationKind::ScaleUp => ("ScalingUp", "NodeJoined"),
        OperationKind::ScaleDown => ("ScalingDown", "NodeRemoved"),
        OperationKind::Upgrade => ("UpgradeStarted", "NodeUpgraded"),
        OperationKind::Replace => ("ReplaceStarted", "NodeReplaced"),
        OperationKind::Resize => ("ResizeStarted", "VolumesResized"),
        OperationKind::RotateCA => ("CARotationStarted", "CertificateRenewed"),
    }
}

/// What changed between two statuses that people want to hear of.
pub fn between(before: &TracingClusterStatus, after: &TracingClusterStatus) -> Vec<Telling> {
    let mut told = Vec::new();
    let operation = |status: &TracingClusterStatus| status.operation.clone().unwrap_or_default();
    let (was, is) = (operation(before), operation(after));
    if (was.kind, &was.target, &was.started_at) != (is.kind, &is.target, &is.started_at) {
        let about = |target: &Option<String>| target.clone().unwrap_or_else(|| "the cluster".to_owned());
        if was.kind != OperationKind::None {
            let (_, ended) = names_of(was.kind);
            told.push(telling(
                false,
                ended,
                &format!("{:?}", was.kind),
                &format!("{:?} of {} has ended", was.kind, about(&was.target)),
            ));
        }
        if is.kind != OperationKind::None {
            let (began, _) = names_of(is.kind);
            told.push(telling(
                false,
                began,
                &format!("{:?}", is.kind),
                &format!("{:?} of {} begins", is.kind, about(&is.target)),
            ));
        }
    }
    let (old, new) = (by_type(&before.conditions), by_type(&after.conditions));
    for (kind, condition) in &new {
        let former = old.get(kind);
        let is_changed =
            former.is_none_or(|former| former.status != condition.status || former.reason != condition.reason);
        if !is_changed {
            continue;
        }
        let is_true = condition.status == "True";
        match *kind {
            "Stalled" if is_true => told.push(telling(true, &condition.reason, "Plan", &condition.message)),
            "Paused" if is_true => told.push(telling(false, "Paused", "Plan", &condition.message)),
            "StorageReady" if !is_true && condition.reason != "WaitingForNodes" => {
                told.push(telling(true, &condition.reason, "Probe", &condition.message));
            }
            "QuorumHealthy" if !is_true && former.is_some_and(|former| former.status == "True") => {
                let reason = if condition.reason == "NoLeader" {
                    "QuorumLost"
                } else {
                    "QuorumAtRisk"
                };
                told.push(telling(true, reason, "Observe", &condition.message));
            }
            "Ready" if is_true => told.push(telling(false, "Ready", "Observe", &condition.message)),
            _ => {}
        }
    }
    told
}

#[cfg(test)]
mod tests {
    //! Two statuses in, reasons out.

    use crds::cluster::status::Operation;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(kind: OperationKind, stalled: Option<&str>) -> TracingClusterStatus {
        let conditions = stalled.map(|reason| Condition {
            type_: "Stalled".to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message: "why".to_owned(),
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        });
        TracingClusterStatus {
            operation: Some(Operation {
                kind,
                target: Some("main-a-0".to_owned()),
                ..Operation::default()
            }),
            conditions: conditions.into_iter().collect(),
            ..TracingClusterStatus::default()
        }
    }

    #[test]
    fn each_transition_is_told_once() {
        let reasons = |before: &TracingClusterStatus, after: &TracingClusterStatus| {
            between(before, after)
                .into_iter()
                .map(|telling| telling.reason)
                .collect::<Vec<_>>()
        };
        let (idle, busy) = (status(OperationKind::None, None), status(OperationKind::Upgrade, None));
        let stuck = status(OperationKind::Upgrade, Some("UpgradeBlocked"));
        assert_eq!(reasons(&idle, &busy), ["UpgradeStarted"]);
        assert_eq!(reasons(&busy, &busy), [] as [&str; 0]);
        assert_eq!(reasons(&busy, &stuck), ["UpgradeBlocked"]);
        assert_eq!(reasons(&stuck, &stuck), [] as [&str; 0]);
        assert_eq!(reasons(&busy, &idle), ["NodeUpgraded"]);
    }
}
