//! A node from its settings to its end: build, announce, run, drain.
//!
//! Owns [`App`]. The order is the point: settings are checked before anything is opened, the object store is probed and
//! the sockets are bound before anything is announced, addresses are printed before `ready`, and on the way out the
//! doors close before what is behind them.
//!
//! What stands behind the doors comes in as [`Backend`], which is built by the caller of [`App::bind`]: the node itself,
//! or the fakes of the tests.
//!
//! | task | owns | born | dies |
//! |---|---|---|---|
//! | one accept loop per port | its listener | [`App::run`] | stop token |
//! | one per connection | its socket | accept | request served after stop, or grace over |
//! | housekeeping | nothing | [`App::run`] | stop token |

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use model::Clock;
use settings::{LimitSettings, NodeSettings};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Readiness};
use crate::cpu::CpuPool;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::net::{ConnectionLimits, Listener, Protocol, serve};
use crate::notice::Notices;
use crate::querier::Querier;
use crate::receiver::Receiver;
use crate::telemetry::RepeatGuard;
use crate::tenant::Tenancy;

/// How often gauges are brought up to date and dropped log lines are summed up.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// What is behind the doors.
pub struct Backend {
    pub ingest: Arc<dyn Ingest>,
    pub querier: Arc<dyn Querier>,
    /// Closes what is behind: flush, hand over, sync. Called once, after the last request.
    pub close: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

/// What every room of a node shares.
#[derive(Clone)]
pub struct Common {
    pub settings: Arc<NodeSettings>,
    /// The section of the settings that is read again while the node runs.
    pub limits: Arc<ArcSwap<LimitSettings>>,
    pub tenancy: Arc<Tenancy>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub notices: Arc<Notices>,
    pub cpu: CpuPool,
    /// Threads for questions, which let those that receive go first; there are none of their own in tests.
    pub computing: Option<tokio::runtime::Handle>,
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Common {
    /// From settings that were checked.
    pub fn new(settings: NodeSettings, clock: Arc<dyn Clock>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            limits: Arc::new(ArcSwap::from_pointee(settings.limits.clone())),
            tenancy: Arc::new(Tenancy::new(&settings)),
            clock,
            metrics: Metrics::new(),
            notices: Arc::default(),
            cpu: CpuPool::new(threads),
            computing: None,
            settings: Arc::new(settings),
        }
    }
}

/// A node with its sockets bound.
#[derive(Debug)]
pub struct App {
    common: Common,
    listeners: Listeners,
    limits: ConnectionLimits,
    readiness: Arc<Readiness>,
    repeats: Option<Arc<RepeatGuard>>,
}

#[derive(Debug)]
struct Listeners {
    otlp_grpc: Listener,
    otlp_http: Listener,
    http: Listener,
}

impl App {
    /// Takes the ports. Connections wait in the kernel's queue until [`App::run`].
    ///
    /// Errors: which address could not be taken, and why.
    pub async fn bind(common: Common, repeats: Option<Arc<RepeatGuard>>) -> anyhow::Result<Self> {
        let listen = &common.settings.listen;
        let bind = |field: &'static str, address: SocketAddr| async move {
            if !address.ip().is_loopback() {
                tracing::warn!(%address, "listening beyond this machine without TLS and without authentication");
            }
            Listener::bind(address)
                .await
                .map_err(|error| anyhow::anyhow!("{field}: cannot listen on {address}: {error}"))
        };
        let listeners = Listeners {
            otlp_grpc: bind("listen.otlp_grpc", listen.otlp_grpc).await?,
            otlp_http: bind("listen.otlp_http", listen.otlp_http).await?,
            http: bind("listen.http", listen.http).await?,
        };
        let limits = ConnectionLimits::new(listen, common.metrics.refused_connections.clone());
        Ok(Self {
            common,
            listeners,
            limits,
            readiness: Arc::new(Readiness::default()),
            repeats,
        })
    }

    /// Name and address of each port.
    pub fn addresses(&self) -> [(&'static str, SocketAddr); 3] {
        let Listeners {
            otlp_grpc,
            otlp_http,
            http,
        } = &self.listeners;
        [
            ("otlp-grpc", otlp_grpc.address()),
            ("otlp-http", otlp_http.address()),
            ("http", http.address()),
        ]
    }

    /// Serves until `stop` is cancelled, then lets requests in flight end, for at most the grace period, and closes the
    /// backend. Announces itself on `out`: one line per address, then `ready`.
    pub async fn run(
        self,
        backend: Backend,
        stop: CancellationToken,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<()> {
        let addresses = self.addresses();
        let Self {
            common,
            listeners,
            limits,
            readiness,
            repeats,
        } = self;
        let Backend { ingest, querier, close } = backend;
        let grace = common.settings.listen.shutdown_grace.duration();
        let receiver = Arc::new(Receiver::new(
            &common.settings,
            Arc::clone(&common.limits),
            Arc::clone(&common.tenancy),
            ingest,
            Arc::clone(&common.clock),
            Arc::clone(&common.metrics),
            common.cpu.clone(),
        ));
        let api = Arc::new(Api::new(
            Arc::clone(&common.settings),
            Arc::clone(&common.limits),
            Arc::clone(&common.tenancy),
            querier,
            Arc::clone(&common.clock),
            Arc::clone(&common.metrics),
            Arc::clone(&common.notices),
            Arc::clone(&readiness),
            common.cpu.clone(),
        ));
        let tasks = TaskTracker::new();
        let Listeners {
            otlp_grpc,
            otlp_http,
            http,
        } = listeners;
        let shared = Arc::clone(&receiver);
        let service = move |request| crate::receiver::grpc::serve(Arc::clone(&shared), request);
        tasks.spawn(serve(
            otlp_grpc,
            Protocol::Http2,
            limits.clone(),
            service,
            stop.clone(),
            tasks.clone(),
        ));
        let shared = Arc::clone(&receiver);
        let service = move |request| crate::receiver::http::serve(Arc::clone(&shared), request);
        tasks.spawn(serve(
            otlp_http,
            Protocol::Http1And2,
            limits.clone(),
            service,
            stop.clone(),
            tasks.clone(),
        ));
        let service = move |request| crate::api::serve(Arc::clone(&api), request);
        tasks.spawn(serve(
            http,
            Protocol::Http1And2,
            limits.clone(),
            service,
            stop.clone(),
            tasks.clone(),
        ));
        tasks.spawn(housekeeping(
            Arc::clone(&common.metrics),
            receiver,
            limits,
            repeats,
            stop.clone(),
        ));
        tasks.close();

        readiness.set(true);
        for (name, address) in addresses {
            writeln!(out, "listening {name} {address}")?;
        }
        writeln!(out, "ready")?;
        out.flush()?;

        stop.cancelled().await;
        readiness.set(false);
        tracing::info!("stopping: requests in flight may end");
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = tasks.len(),
                "stopping without waiting any longer for clients"
            );
        }
        close().await;
        Ok(())
    }
}

async fn housekeeping(
    metrics: Arc<Metrics>,
    receiver: Arc<Receiver>,
    limits: ConnectionLimits,
    repeats: Option<Arc<RepeatGuard>>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        metrics
            .open_connections
            .set(i64::try_from(limits.open()).unwrap_or(i64::MAX));
        metrics
            .in_flight_bytes
            .set(i64::try_from(receiver.in_flight_bytes()).unwrap_or(i64::MAX));
        for dropped in repeats.iter().flat_map(|repeats| repeats.take_dropped()) {
            metrics.dropped_log_lines.inc_by(dropped.lines);
            tracing::info!(
                lines = dropped.lines,
                place = dropped.place,
                "log lines were dropped because they repeated"
            );
        }
    }
}

/// Cancelled by SIGTERM or SIGINT.
///
/// Errors: the handlers cannot be installed.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    // Ends with the process: nobody waits for a signal that may never come.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}
