//! The ring as the rest of the node sees it: its newest view here, changes of it wherever its leader is, and the catalog
//! ([`CatalogPort`]).
//!
//! What always holds: when a change comes back, the view of this node shows it, whoever proposed it for us. A change whose
//! fate is unknown is an error; whoever asked for it looks at the view before asking again.

use std::sync::Arc;
use std::time::Duration;

use consensus::ring::{Body, RingAnswers, RingChange, RingCommand, RingMachine, RingRefusal};
use consensus::{ConsensusError, Group, Payload};
use futures::future::BoxFuture;
use model::{Clock, LogIndex, NodeId};
use shard::catalog::{CatalogView, Change, Command, GroupKey, RingTime};
use shard::port::CatalogPort;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::View;
use crate::peer::PeerTransport;
use crate::peer::question::{Question, Reply};
use crate::refusal::Refusal;

/// The ring's time must move at least once a minute, or it is not trusted to delete by age.
const TICK: Duration = Duration::from_secs(30);
/// Entries of the ring's log after which its state is kept as a snapshot instead: a few megabytes to read at a start.
const LOG_ENTRIES_MAX: u64 = 10_000;
const SHORTEN_WITHIN: Duration = Duration::from_secs(30);
/// For a change to be agreed on and to be seen here, over a change of the leader.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// One try of it.
const ASK_WITHIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// See the module's documentation.
pub(super) struct RingPort {
    group: Group<RingMachine>,
    view: watch::Receiver<View>,
    answers: RingAnswers,
    catalog: watch::Sender<Arc<CatalogView>>,
    clock: Arc<dyn Clock>,
    /// `None`: this node is alone.
    peers: Option<PeerTransport>,
}

/// Why the ring did not change, or may have.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error(transparent)]
    Group(#[from] ConsensusError),
    #[error("the leader of the ring refused: {0}")]
    Refused(Refusal),
    #[error("the leader of the ring cannot be reached")]
    NoLeader,
    #[error("it is unknown whether the ring agreed")]
    Unknown,
}

impl RingPort {
    pub(super) fn new(
        group: Group<RingMachine>,
        view: watch::Receiver<View>,
        answers: RingAnswers,
        clock: Arc<dyn Clock>,
        peers: Option<PeerTransport>,
    ) -> Self {
        let (catalog, _) = watch::channel(Arc::clone(view.borrow().state.catalog.view()));
        Self {
            group,
            view,
            answers,
            catalog,
            clock,
            peers,
        }
    }

    /// This node.
    pub(super) fn node(&self) -> NodeId {
        self.group.node()
    }

    pub(super) fn group(&self) -> &Group<RingMachine> {
        &self.group
    }

    pub(super) fn ring_view(&self) -> View {
        Arc::clone(&self.view.borrow())
    }

    /// To be told of newer views.
    pub(super) fn views(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Up to where blocks cover a generation, as far as this node knows.
    pub(super) fn watermark(&self, key: GroupKey) -> LogIndex {
        self.view().watermark(key).unwrap_or_default()
    }

    /// Changes the ring. When it comes back, [`RingPort::ring_view`] shows the change.
    pub(super) async fn propose(&self, body: Body) -> anyhow::Result<RingChange> {
        Ok(self.command(body).await??)
    }

    pub(super) async fn command(&self, body: Body) -> Result<Result<RingChange, RingRefusal>, RingError> {
        let command = RingCommand::new(self.clock.unix_nanos(), body);
        let bytes = bytes::Bytes::from(command.encode());
        let changing = async {
            let mut hint = None;
            loop {
                if self.group.is_leader() || self.peers.is_none() {
                    // What the ring does is what makes room in the log, so it may use the space kept for that.
                    match self.group.propose(Payload::control(bytes.clone())).await {
                        Ok((_, response)) => return Ok(response),
                        Err(ConsensusError::NotLeader { leader, .. }) if self.peers.is_some() => hint = leader,
                        Err(error) => return Err(error.into()),
                    }
                } else {
                    match self.ask_leader(hint.take(), Question::Propose(bytes.clone())).await? {
                        Asked::At(index) => return self.answer_at(index).await,
                        Asked::Elsewhere(leader) => hint = leader,
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let changed = tokio::time::timeout(CHANGE_WITHIN, changing).await;
        changed.map_err(|_| RingError::Unknown)?
    }

    /// Asks whoever leads, as far as is known.
    async fn ask_leader(&self, hint: Option<NodeId>, question: Question) -> Result<Asked, RingError> {
        let peers = self.peers.as_ref().ok_or(RingError::NoLeader)?;
        let leader = hint.or_else(|| self.group.leader());
        let Some(leader) = leader.filter(|leader| *leader != self.node()) else {
            return Ok(Asked::Elsewhere(None));
        };
        match peers.ask(leader, question.encode(), ASK_WITHIN).await {
            // It may have been proposed, so it must not be asked for again.
            Err(_) if matches!(question, Question::Propose(_)) => Err(RingError::Unknown),
            Err(_) => Ok(Asked::Elsewhere(None)),
            Ok(bytes) => match Reply::decode(bytes) {
                Ok(Reply::At(index)) => Ok(Asked::At(index)),
                Ok(Reply::NotLeader { leader, address }) => {
                    if let (Some(leader), Some(address)) = (leader, address) {
                        peers.book().hear(leader, &address);
                    }
                    Ok(Asked::Elsewhere(leader))
                }
                Ok(Reply::Refused(refusal)) => Err(RingError::Refused(refusal)),
                Ok(_) | Err(_) => Err(RingError::Unknown),
            },
        }
    }

    async fn answer_at(&self, index: LogIndex) -> Result<Result<RingChange, RingRefusal>, RingError> {
        self.wait_applied(index).await?;
        self.answers.at(index).ok_or(RingError::Unknown)
    }

    async fn wait_applied(&self, index: LogIndex) -> Result<(), RingError> {
        let mut views = self.view.clone();
        let seen = views.wait_for(|view| view.applied >= index).await;
        seen.map(drop).map_err(|_| RingError::Unknown)
    }

    /// Waits until this node's view shows all that was agreed before the call.
    pub(super) async fn refresh(&self, within: Duration) -> Result<(), RingError> {
        if self.peers.is_none() {
            return Ok(());
        }
        let refreshing = async {
            let mut hint = None;
            loop {
                if self.group.is_leader() {
                    let index = self.group.read_index().await?;
                    return self.wait_applied(index).await;
                }
                match self.ask_leader(hint.take(), Question::RingIndex).await? {
                    Asked::At(index) => return self.wait_applied(index).await,
                    Asked::Elsewhere(leader) => hint = leader,
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let refreshed = tokio::time::timeout(within, refreshing).await;
        refreshed.map_err(|_| RingError::NoLeader)?
    }

    /// Proposes a command that another node asked for; it finds the answer by applying it.
    pub(super) async fn propose_for(&self, command: bytes::Bytes) -> Result<LogIndex, ConsensusError> {
        Ok(self.group.propose(Payload::control(command)).await?.0)
    }
}

enum Asked {
    At(LogIndex),
    Elsewhere(Option<NodeId>),
}

impl CatalogPort for RingPort {
    fn view(&self) -> Arc<CatalogView> {
        Arc::clone(self.view.borrow().state.catalog.view())
    }

    fn watch(&self) -> watch::Receiver<Arc<CatalogView>> {
        self.catalog.subscribe()
    }

    fn change(&self, command: Command) -> BoxFuture<'_, shard::Result<Change>> {
        Box::pin(async move {
            match self.command(Body::Catalog(command)).await {
                Ok(Ok(RingChange::Catalog(change))) => Ok(change),
                Ok(Ok(other)) => Err(shard::Error::Ring(format!("the ring answered {other:?}"))),
                Ok(Err(RingRefusal::Catalog(refusal))) => Err(refusal.into()),
                Ok(Err(refusal)) => Err(shard::Error::Ring(refusal.to_string())),
                Err(error) => Err(shard::Error::Ring(error.to_string())),
            }
        })
    }

    fn now(&self) -> RingTime {
        self.view.borrow().state.clock.now()
    }
}

/// Moves the ring's time while nothing else does, and keeps its log short.
pub(super) async fn keep_time(port: Arc<RingPort>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if port.group.is_leader()
            && let Err(error) = port.propose(Body::Tick).await
        {
            tracing::warn!(%error, "the ring's clock cannot be moved");
        }
        if let Err(error) = port.group.shorten_log(LOG_ENTRIES_MAX, SHORTEN_WITHIN).await {
            tracing::warn!(%error, "the ring's log cannot be shortened");
        }
    }
}

/// Tells those who wait for a newer catalog.
pub(super) async fn forward_views(port: Arc<RingPort>, stop: CancellationToken) {
    let mut views = port.view.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
        }
        let catalog = Arc::clone(views.borrow_and_update().state.catalog.view());
        port.catalog.send_if_modified(|known| {
            let is_new = known.revision() != catalog.revision();
            *known = catalog;
            is_new
        });
    }
}

impl From<ConsensusError> for Refusal {
    fn from(error: ConsensusError) -> Self {
        use crate::refusal::Kind;
        let kind = match error.kind() {
            // The disk is full, not the client fast: blocks must be written before it helps to come back.
            _ if matches!(error, ConsensusError::LogThrottled { .. }) => Kind::Unavailable,
            consensus::Kind::Rejected => Kind::TooLarge,
            consensus::Kind::Throttled => Kind::Throttled,
            consensus::Kind::NotLeader | consensus::Kind::Unavailable | consensus::Kind::Fenced => Kind::Unavailable,
            consensus::Kind::Corrupt | consensus::Kind::Internal => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}
