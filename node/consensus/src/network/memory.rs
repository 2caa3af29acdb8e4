//! Several nodes in one process, with links that can be cut and slowed.
//!
//! For tests of this crate and of those above it. Messages go through the same bytes as on a wire. Nothing here is
//! random: a link does what it was last told.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use model::NodeId;
use parking_lot::Mutex;

use super::{Lane, Peer, PeerError, PeerMessage, PeerNetwork};
use crate::groups::{Groups, WeakGroups};

/// Messages of one stream on a link at once.
const ON_THE_WAY_MAX: usize = 64;

/// What one direction between two nodes does to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Delivers at once.
    Up,
    /// Delivers after a while.
    Slow(Duration),
    /// Delivers nothing.
    Cut,
}

/// The wires between the nodes of a test. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    wires: Arc<Mutex<Wires>>,
}

#[derive(Default)]
struct Wires {
    nodes: HashMap<NodeId, WeakGroups>,
    links: HashMap<(NodeId, NodeId), Link>,
    /// Messages and streams that anybody tried to send.
    attempts: u64,
}

impl MemoryNetwork {
    /// No nodes, all links up.
    pub fn new() -> Self {
        Self::default()
    }

    /// The network as `node` sees it.
    pub fn of(&self, node: NodeId) -> Arc<dyn PeerNetwork> {
        Arc::new(NodeNetwork {
            from: node,
            network: self.clone(),
        })
    }

    /// Makes the groups of `node` reachable, replacing those of an earlier life.
    pub fn attach(&self, node: NodeId, groups: &Groups) {
        self.wires.lock().nodes.insert(node, groups.downgrade());
    }

    /// Makes the node unreachable, as if its process were gone.
    pub fn detach(&self, node: NodeId) {
        self.wires.lock().nodes.remove(&node);
    }

    /// Sets one direction of a link.
    pub fn set_link(&self, from: NodeId, to: NodeId, link: Link) {
        self.wires.lock().links.insert((from, to), link);
    }

    /// Sets both directions between `node` and every other node.
    pub fn set_all_links(&self, node: NodeId, link: Link) {
        let mut wires = self.wires.lock();
        let others: Vec<NodeId> = wires.nodes.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            wires.links.insert((node, other), link);
            wires.links.insert((other, node), link);
        }
    }

    /// How many messages and streams were tried so far, whatever became of them.
    pub fn attempts(&self) -> u64 {
        self.wires.lock().attempts
    }

    fn link(&self, from: NodeId, to: NodeId) -> Link {
        self.wires.lock().links.get(&(from, to)).copied().unwrap_or(Link::Up)
    }

    /// One message over one direction of a link.
    async fn pass(&self, from: NodeId, to: NodeId) -> Result<(), PeerError> {
        match self.link(from, to) {
            Link::Up => Ok(()),
            Link::Slow(by) => {
                tokio::time::sleep(by).await;
                Ok(())
            }
            Link::Cut => Err(PeerError::Unreachable("link is cut".into())),
        }
    }

    fn groups(&self, node: NodeId) -> Result<Groups, PeerError> {
        let groups = self.wires.lock().nodes.get(&node).and_then(WeakGroups::upgrade);
        groups.ok_or_else(|| PeerError::Unreachable("node is down".into()))
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork")
            .field("links", &self.wires.lock().links)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct NodeNetwork {
    from: NodeId,
    network: MemoryNetwork,
}

impl PeerNetwork for NodeNetwork {
    fn call(
        &self,
        to: Peer,
        _: Lane,
        request: PeerMessage,
        _: Duration,
    ) -> BoxFuture<'static, Result<PeerMessage, PeerError>> {
        let (from, network) = (self.from, self.network.clone());
        async move {
            network.wires.lock().attempts += 1;
            network.pass(from, to.node).await?;
            let answer = network.groups(to.node)?.answer(to.group, request).await?;
            network.pass(to.node, from).await?;
            Ok(answer)
        }
        .boxed()
    }

    fn stream(
        &self,
        to: Peer,
        requests: BoxStream<'static, PeerMessage>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<PeerMessage, PeerError>>, PeerError>> {
        let (from, network) = (self.from, self.network.clone());
        async move {
            network.wires.lock().attempts += 1;
            network.pass(from, to.node).await?;
            let groups = network.groups(to.node)?;
            let forth = network.clone();
            // Many messages are on a slow link at once, and still arrive in order.
            let requests = requests
                .map(move |request| {
                    let forth = forth.clone();
                    async move { forth.pass(from, to.node).await.ok().map(|()| request) }
                })
                .buffered(ON_THE_WAY_MAX)
                .take_while(|request| future::ready(request.is_some()))
                .filter_map(future::ready);
            let answers = groups.answer_stream(to.group, requests.boxed())?;
            let answers = answers
                .map(move |answer| {
                    let back = network.clone();
                    async move {
                        back.pass(to.node, from).await?;
                        answer
                    }
                })
                .buffered(ON_THE_WAY_MAX);
            Ok(answers.boxed())
        }
        .boxed()
    }
}
