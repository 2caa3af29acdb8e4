//! The operator as a process: words and environment in, one leader's loop, health and counters out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Parser;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::{RwLock, watch};
use vivace_operator::admin::{TIMEOUT, standalone};
use vivace_operator::controller::{Context, Counters};
use vivace_operator::leader::Leader;
use vivace_operator::names;
use vivace_operator::validate::Environment;
use vivace_operator::watching::{run, served};

/// Name of the Lease.
const LEASE: &str = "vivace-operator";
/// How often kinds of others are looked for.
const DISCOVER: Duration = Duration::from_secs(600);

/// Makes TracingClusters into tracing stores that run.
#[derive(Debug, Parser)]
#[command(name = "vivace-operator", version)]
struct Args {
    /// Image of the nodes, with or without a tag; without one the operator's own version is taken
    #[arg(long, env = "VIVACE_NODE_IMAGE", default_value = "vivace")]
    node_image: String,
    /// Namespaces to look after, separated by commas [default: all]
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Only TracingClusters with these labels, as in kubectl -l
    #[arg(long, env = "WATCH_LABELS")]
    watch_labels: Option<String>,
    /// Namespace of the operator itself, for its Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Name of this operator among several
    #[arg(long, env = "POD_NAME", default_value = "vivace-operator")]
    identity: String,
    /// Act without asking whether another operator does
    #[arg(long, env = "VIVACE_NO_LEADER_ELECTION")]
    no_leader_election: bool,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "VIVACE_OPERATOR_LISTEN", default_value = "0.0.0.0:8081")]
    listen: SocketAddr,
    /// error, warn, info, debug, trace, or directives
    #[arg(
        long,
        env = "VIVACE_LOG_LEVEL",
        default_value = "info,kube_runtime=warn,kube_client=warn"
    )]
    log_level: String,
    /// text or json
    #[arg(long, env = "VIVACE_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log(&args);
    let client = Client::try_default().await.context("no way to the Kubernetes API")?;
    let reporter = Reporter {
        controller: names::MANAGER.to_owned(),
        instance: Some(args.identity.clone()),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        environment: Environment {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_image: args.node_image.clone(),
            namespace: args.namespace.clone(),
        },
        recorder: Recorder::new(client.clone(), reporter),
        served: RwLock::default(),
        nodes: standalone::client(TIMEOUT)?,
        counters: Counters::default(),
    });
    let leads = Arc::new(AtomicBool::new(false));
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("listening http {}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, health(context.clone(), leads.clone())).into_future());

    let mut stop = signals()?;
    let leader = Leader::new(client.clone(), &args.namespace, LEASE, args.identity.clone());
    if !args.no_leader_election {
        tokio::select! {
            () = leader.acquire() => {}
            _ = stop.changed() => return Ok(()),
        }
    }
    leads.store(true, Ordering::Relaxed);
    println!("leading");
    tokio::spawn(discover(context.clone()));
    let loops = async {
        let spaces: Vec<Option<&str>> = if args.watch_namespaces.is_empty() {
            vec![None]
        } else {
            args.watch_namespaces.iter().map(|name| Some(name.as_str())).collect()
        };
        let stop = stop.clone();
        let all = spaces.into_iter().map(|space| {
            let mut stop = stop.clone();
            run(context.clone(), space, args.watch_labels.as_deref(), async move {
                let _ = stop.changed().await;
            })
        });
        futures::future::join_all(all).await;
    };
    if args.no_leader_election {
        loops.await;
        return Ok(());
    }
    tokio::select! {
        () = loops => {
            leader.release().await;
            Ok(())
        }
        // Whoever has lost the lease must not act any more, not even to finish something.
        () = leader.hold() => anyhow::bail!("the lease is lost; somebody else leads"),
    }
}

fn log(args: &Args) {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log_level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if args.log_format == "json" {
        lines.json().init();
    } else {
        lines.init();
    }
}

/// Becomes changed at SIGTERM or SIGINT.
fn signals() -> anyhow::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        let _ = sender.send(true);
        // The sender stays: one that is dropped would look like a second signal.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

/// Looks now and then which kinds of others are served.
async fn discover(context: Arc<Context>) {
    loop {
        match served(&context.client).await {
            Ok(found) => *context.served.write().await = found,
            Err(error) => tracing::warn!(%error, "kinds of others cannot be looked up"),
        }
        tokio::time::sleep(DISCOVER).await;
    }
}

fn health(context: Arc<Context>, leads: Arc<AtomicBool>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        // One that waits for the lease is ready to take over.
        .route("/readyz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .fallback(async || StatusCode::NOT_FOUND)
        .with_state((context, leads))
}

async fn metrics(State((context, leads)): State<(Arc<Context>, Arc<AtomicBool>)>) -> String {
    let counters = &context.counters;
    let counted = [
        ("reconcile_total", "Runs of the loop.", &counters.runs),
        ("reconcile_errors_total", "Runs that ended early.", &counters.failures),
        ("writes_total", "Objects written, statuses included.", &counters.writes),
    ];
    let lines = counted.map(|(name, help, value)| {
        let value = value.load(Ordering::Relaxed);
        format!("# HELP tracing_operator_{name} {help}\n# TYPE tracing_operator_{name} counter\ntracing_operator_{name} {value}\n")
    });
    let leads = u8::from(leads.load(Ordering::Relaxed));
    format!(
        "{}# TYPE tracing_operator_leader gauge\ntracing_operator_leader {leads}\n",
        lines.concat()
    )
}
