//! The way to the other nodes: the door they come in by, and the connections to theirs.
//!
//! Bound before the ring is opened, because a majority of the ring may need this node's vote; what it can be asked grows as
//! rooms open ([`super::desk`]).

use std::sync::Arc;

use anyhow::Context as _;
use consensus::Groups;
use model::NodeId;
use settings::NodeSettings;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::FEATURE_LEVEL;
use super::desk::NodeDesk;
use super::ground::Ground;
use crate::peer::accept::PeerDoor;
use crate::peer::tls::PeerTls;
use crate::peer::wires::Doorway;
use crate::peer::{PeerIdentity, PeerTransport, Security};

/// The way to the other nodes.
pub(super) struct Peers {
    pub(super) transport: PeerTransport,
    pub(super) desk: Arc<NodeDesk>,
    listener: Option<Box<dyn Doorway>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Peers {
    pub(super) async fn open(
        settings: &NodeSettings,
        ground: &Ground,
        id: NodeId,
        cluster: u128,
    ) -> anyhow::Result<Option<Self>> {
        let Some(address) = settings.listen.peer else {
            return Ok(None);
        };
        let listener = ground
            .wires
            .listen(address)
            .await
            .with_context(|| format!("listen.peer: cannot listen on {address}"))?;
        let security = match &settings.cluster.tls {
            Some(tls) => Security::Tls(Arc::new(PeerTls::load(tls).context("cluster.tls")?)),
            None => Security::Plaintext,
        };
        let identity = PeerIdentity {
            node: id,
            address: settings.cluster.advertised(listener.address()?).into(),
            feature_level: FEATURE_LEVEL,
        };
        let timeout = settings.cluster.connect_timeout.duration();
        Ok(Some(Self {
            transport: PeerTransport::over(Arc::clone(&ground.wires), identity, cluster, security, timeout),
            desk: Arc::default(),
            listener: Some(listener),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    pub(super) fn serve(&mut self, groups: Groups) {
        if let Some(listener) = self.listener.take() {
            let door = PeerDoor::new(self.transport.clone(), groups, Arc::clone(&self.desk) as _);
            let serving = door.serve(listener, self.stop.clone(), self.tasks.clone());
            self.tasks.spawn(serving);
        }
    }

    pub(super) async fn close(self) {
        self.desk.close();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.transport.retain(|_| false);
    }
}
