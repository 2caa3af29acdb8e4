//! The ring as the catalog's owner: [`CatalogPort`] over its group.

use std::sync::Arc;
use std::time::Duration;

use consensus::ring::{Body, RingChange, RingCommand, RingMachine, RingRefusal};
use consensus::{Group, Payload};
use futures::future::BoxFuture;
use model::Clock;
use shard::catalog::{CatalogView, Change, Command, RingTime};
use shard::port::CatalogPort;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::View;
use crate::refusal::Refusal;

/// The ring's time must move at least once a minute, or it is not trusted to delete by age.
const TICK: Duration = Duration::from_secs(30);

/// Entries of the ring's log after which its state is kept as a snapshot instead: a few megabytes to read at a start.
const LOG_ENTRIES_MAX: u64 = 10_000;
const SHORTEN_WITHIN: Duration = Duration::from_secs(30);

/// See the module's documentation.
pub(super) struct RingPort {
    group: Group<RingMachine>,
    view: watch::Receiver<View>,
    catalog: watch::Sender<Arc<CatalogView>>,
    clock: Arc<dyn Clock>,
}

impl RingPort {
    pub(super) fn new(group: Group<RingMachine>, view: watch::Receiver<View>, clock: Arc<dyn Clock>) -> Self {
        let (catalog, _) = watch::channel(Arc::clone(view.borrow().state.catalog.view()));
        Self {
            group,
            view,
            catalog,
            clock,
        }
    }

    pub(super) fn ring_view(&self) -> View {
        Arc::clone(&self.view.borrow())
    }

    /// Changes the ring. When it comes back, [`RingPort::ring_view`] shows the change.
    pub(super) async fn propose(&self, body: Body) -> anyhow::Result<RingChange> {
        Ok(self.command(body).await??)
    }

    async fn command(&self, body: Body) -> Result<Result<RingChange, RingRefusal>, consensus::ConsensusError> {
        let command = RingCommand::new(self.clock.unix_nanos(), body);
        // What the ring does is what makes room in the log, so it may use the space kept for that.
        Ok(self.group.propose(Payload::control(command.encode())).await?.1)
    }
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
        if let Err(error) = port.propose(Body::Tick).await {
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

impl From<consensus::ConsensusError> for Refusal {
    fn from(error: consensus::ConsensusError) -> Self {
        use crate::refusal::Kind;
        let kind = match error.kind() {
            // The disk is full, not the client fast: blocks must be written before it helps to come back.
            _ if matches!(error, consensus::ConsensusError::LogThrottled { .. }) => Kind::Unavailable,
            consensus::Kind::Rejected => Kind::TooLarge,
            consensus::Kind::Throttled => Kind::Throttled,
            consensus::Kind::NotLeader | consensus::Kind::Unavailable | consensus::Kind::Fenced => Kind::Unavailable,
            consensus::Kind::Corrupt | consensus::Kind::Internal => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}
