//! The cluster as this node sees it, for people, the admin API and tests.

use std::collections::BTreeSet;
use std::sync::Arc;

use consensus::GroupStatus;
use consensus::ring::{Body, NodeState, RingView};
use model::NodeId;
use shard::catalog::GroupKey;

use super::ring::RingPort;
use super::shards::Shards;

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    pub(super) ring: Arc<RingPort>,
    pub(super) shards: Arc<Shards>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("node", &self.ring.node())
            .finish_non_exhaustive()
    }
}

/// One generation on this node.
#[derive(Debug, Clone)]
pub struct UnitStatus {
    pub key: GroupKey,
    pub group: GroupStatus,
    /// Whether live spans are here.
    pub is_live: bool,
}

impl Observer {
    /// This node.
    pub fn node(&self) -> NodeId {
        self.ring.node()
    }

    /// The ring's state as far as it has come here.
    pub fn ring(&self) -> Arc<RingView> {
        self.ring.ring_view()
    }

    /// Who leads and votes in the ring.
    pub fn ring_group(&self) -> GroupStatus {
        self.ring.group().status()
    }

    /// The generations on this node.
    pub fn units(&self) -> Vec<UnitStatus> {
        let units = self.shards.all();
        let status = units.iter().map(|unit| UnitStatus {
            key: unit.key,
            group: unit.group.status(),
            is_live: unit.shard.is_live(),
        });
        status.collect()
    }

    /// Whether every shard has `replicas` members and nothing is on its way out.
    pub fn is_settled(&self, replicas: usize) -> bool {
        let view = self.ring();
        let map = &view.state.map;
        map.sealed.is_empty() && map.shards.values().all(|record| record.members.len() == replicas)
    }

    /// Gives a node up for lost, as the admin command does that has made sure that it is.
    ///
    /// Errors: the ring did not take it, or it is not known whether it did; ask again.
    pub async fn give_up(&self, node: NodeId) -> anyhow::Result<()> {
        let known = self.ring().state.nodes.get(&node).cloned();
        match known.filter(|record| record.state != NodeState::Lost) {
            None => Ok(()),
            Some(mut record) => {
                record.state = NodeState::Lost;
                self.ring.propose(Body::PutNode(record)).await.map(drop)
            }
        }
    }

    /// Members of all current generations.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let view = self.ring();
        view.state
            .map
            .shards
            .values()
            .flat_map(|record| record.members.clone())
            .collect()
    }
}
