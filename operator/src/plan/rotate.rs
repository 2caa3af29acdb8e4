//! Changing the CA while everybody goes on trusting everybody: first all believe both, then all show the new one, then the
//! old one is forgotten. Nodes take certificates up without a restart.

use crds::cluster::status::OperationKind;

use super::{Act, Due, Next, Sight};
use crate::certificates::{CertificateState, CertificateStep};
use crate::observed::Memory;

pub(super) fn due(sight: &Sight<'_>) -> Due {
    let state = &sight.observed.certificates;
    if !sight.cluster.has_certificates() || !(state.is_ca_due || state.has_previous) {
        return Due::No;
    }
    Due::begin(OperationKind::RotateCA, "the certificate authority is renewed")
}

/// Nodes that answer and do not say `wanted` yet.
fn behind<'a>(
    sight: &'a Sight<'_>,
    said: impl Fn(&crate::admin::NodeStatus) -> Option<&String>,
    wanted: &str,
) -> Vec<&'a str> {
    let nodes = sight.observed.nodes.iter();
    nodes
        .filter(|(_, node)| said(node).is_none_or(|said| said != wanted))
        .map(|(pod, _)| pod.as_str())
        .collect()
}

pub(super) fn step(sight: &Sight<'_>, memory: &Memory) -> Next {
    let CertificateState {
        is_ca_due,
        has_previous,
        is_leaf_of_current,
        bundle_hash,
        leaf_hash,
        ..
    } = &sight.observed.certificates;
    if !sight.cluster.has_certificates() {
        return Next::Done(Box::new(memory.clone()));
    }
    if *is_ca_due && !has_previous {
        return Next::Do("NewCA", Act::Certificates(CertificateStep::NewCa));
    }
    if !has_previous {
        return Next::Done(Box::new(memory.clone()));
    }
    // A node that does not answer holds this up: it would come back believing only the old one.
    let silent = sight.slots().iter().find(|slot| sight.node(&slot.pod).is_none());
    if let Some(slot) = silent {
        return Next::Wait("WaitingForNodes", format!("{} does not answer", slot.pod));
    }
    if !is_leaf_of_current {
        let behind = behind(sight, |node| node.trust.as_ref(), bundle_hash);
        if !behind.is_empty() {
            return Next::Wait("Trust", format!("{behind:?} do not believe the new CA yet"));
        }
        return Next::Do("NewLeaf", Act::Certificates(CertificateStep::NewLeaf));
    }
    let behind = behind(sight, |node| node.certificate.as_ref(), leaf_hash);
    if !behind.is_empty() {
        return Next::Wait("Show", format!("{behind:?} do not show the new certificate yet"));
    }
    Next::Do("ForgetOld", Act::Certificates(CertificateStep::ForgetPrevious))
}
