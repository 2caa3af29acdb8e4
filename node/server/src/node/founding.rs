//! Opening the ring: a disk that knows its cluster finds it again, an empty one joins the cluster that the settings name, or
//! founds one.
//!
//! What always holds: a disk belongs to one cluster for good, written down ([`identity`]) before anything is acknowledged.
//! A cluster whose disks are all lost is founded again under its id ([`found_again`]): its catalog first, so that whoever is
//! interrupted has founded nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use consensus::ring::{Body, HashRange, NodeRecord, NodeState, RingMachine, ShardRecord};
use consensus::{GroupId, Groups};
use model::{Generation, ShardId};
use shard::catalog::Catalog;
use shard::rebuild::Rebuilt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::DeskRooms;
use super::members::{self, Card};
use super::peers::Peers;
use super::ring::{self, RingPort};
use super::{FEATURE_LEVEL, RECOVERY_MAX, identity};
use crate::app::Common;

/// The address of a node that no other one can reach; the node says where it is when it is opened with peers.
const ALONE: &str = "alone";
/// Bytes of catalog in one entry of the ring's log.
const RESTORED_AT_ONCE_BYTES: usize = 512 << 10;

/// Opens the ring. A disk that belongs to no cluster founds the one of the id `founding`, or joins the one that the settings
/// name.
pub(super) async fn open_ring(
    common: &Common,
    groups: &Groups,
    peers: Option<&Peers>,
    founding: Option<u128>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<Arc<RingPort>> {
    let settings = &common.settings;
    let data_dir = settings.node.data_dir.as_path();
    let (machine, view) = RingMachine::new();
    let answers = machine.answers();
    let group = groups.open(GroupId::Ring, machine).await?;
    let id = group.node();
    let transport = peers.map(|peers| peers.transport.clone());
    let clock = Arc::clone(&common.clock);
    let port = Arc::new(RingPort::new(group.clone(), view, answers, clock, transport.clone()));
    if let Some(peers) = peers {
        // The ring is answered for before there are shards: a majority may need this node's vote.
        peers.desk.open(DeskRooms {
            ring: Arc::clone(&port),
            router: None,
            reader: None,
            tails: None,
            peers: peers.transport.clone(),
        });
    }
    let card = Card::of(settings, id);
    let is_new = identity::cluster(data_dir)? == 0;
    let seeds: Vec<Arc<str>> = settings
        .cluster
        .join
        .iter()
        .map(|address| address.as_str().into())
        .collect();
    match (&transport, founding) {
        (Some(transport), None) if is_new => {
            members::join(transport, &seeds, &card, stop).await?;
            identity::keep_cluster(data_dir, transport.cluster())?;
        }
        (_, Some(cluster)) if is_new => {
            group.found(&BTreeSet::from([id])).await?;
            group.wait_recovered(RECOVERY_MAX).await?;
            if !port.ring_view().state.is_founded() {
                let address = match &transport {
                    Some(transport) => Arc::clone(&transport.identity().address),
                    None => ALONE.into(),
                };
                let birth = Birth {
                    cluster,
                    generation: Generation(1),
                };
                found_cluster(common, &port, birth, address, &card).await?;
            }
            let cluster = port.ring_view().state.cluster;
            identity::keep_cluster(data_dir, cluster)?;
            if let Some(transport) = &transport {
                transport.belongs_to(cluster);
            }
        }
        _ => {}
    }
    let finding = transport.as_ref().map(|transport| {
        for node in port.ring_view().state.nodes.values() {
            transport.book().record(node.id, &node.address);
        }
        tasks.spawn(members::find(Arc::clone(&port), transport.clone(), seeds, stop.clone()))
    });
    let mut views = port.views();
    let founded = tokio::time::timeout(RECOVERY_MAX, views.wait_for(|view| view.state.is_founded())).await;
    founded.context("the ring could not be read back: a majority of its voters is away")??;
    drop(views);
    if let Some(finding) = finding {
        finding.abort();
    }
    let known = port.ring_view().state.cluster;
    anyhow::ensure!(
        known == identity::cluster(data_dir)?,
        "the log is of another cluster than the folder it is in"
    );
    if transport.is_none() {
        group.wait_recovered(RECOVERY_MAX).await?;
    }
    tasks.spawn(ring::keep_time(Arc::clone(&port), stop.clone()));
    tasks.spawn(ring::forward_views(Arc::clone(&port), stop.clone()));
    if let Some(transport) = transport {
        tasks.spawn(members::announce(
            Arc::clone(&port),
            transport.clone(),
            card,
            stop.clone(),
        ));
        tasks.spawn(members::keep(
            Arc::clone(&port),
            transport,
            members::Wanted {
                replicas: settings.cluster.replicas,
                voters: settings.cluster.voters,
            },
            stop.clone(),
        ));
    }
    Ok(port)
}

/// What a cluster begins with.
struct Birth {
    /// Its id.
    cluster: u128,
    /// That of all its shards; none of an earlier life under the same id.
    generation: Generation,
}

/// Founds a cluster again on an empty disk, with what its object store was found to hold.
///
/// Errors: what could not be written. Repeating it goes on where it was.
pub(super) async fn found_again(
    common: &Common,
    groups: &Groups,
    cluster: u128,
    rebuilt: &Rebuilt,
) -> anyhow::Result<()> {
    let settings = &common.settings;
    let (machine, view) = RingMachine::new();
    let answers = machine.answers();
    let group = groups.open(GroupId::Ring, machine).await?;
    let clock = Arc::clone(&common.clock);
    let port = RingPort::new(group.clone(), view, answers, clock, None);
    group.found(&BTreeSet::from([group.node()])).await?;
    group.wait_recovered(RECOVERY_MAX).await?;
    if !port.ring_view().state.is_founded() {
        for part in rebuilt.catalog.view().parts(RESTORED_AT_ONCE_BYTES) {
            port.propose(Body::Restore(Catalog::of(part))).await?;
        }
        let birth = Birth {
            cluster,
            generation: rebuilt.next_generation,
        };
        found_cluster(common, &port, birth, ALONE.into(), &Card::of(settings, group.node())).await?;
    }
    identity::keep_cluster(&settings.node.data_dir, cluster)
}

/// Makes a cluster of this node alone: all shards here.
async fn found_cluster(
    common: &Common,
    port: &RingPort,
    birth: Birth,
    address: Arc<str>,
    card: &Card,
) -> anyhow::Result<()> {
    let id = port.node();
    let count = common.settings.shards.count;
    let shard = |index| ShardRecord {
        id: ShardId(index),
        range: HashRange::of_shard(index, count),
        generation: birth.generation,
        members: BTreeSet::from([id]),
        preferred: id,
        inherits: false,
    };
    let node = NodeRecord {
        id,
        pod: Arc::clone(&card.name),
        zone: Arc::clone(&card.zone),
        address,
        state: NodeState::Active,
        feature_level: FEATURE_LEVEL,
        joined_unix_nanos: 0,
    };
    port.propose(Body::Bootstrap {
        cluster: birth.cluster,
        nodes: vec![node],
        shards: (0..count).map(shard).collect(),
    })
    .await?;
    Ok(())
}
