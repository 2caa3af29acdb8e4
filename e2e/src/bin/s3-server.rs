//! The S3 server of the end-to-end suite as a process, with its toxics behind a small HTTP control endpoint.
//!
//! Prints `listening s3 ADDR` and `listening control ADDR` once both are bound, then serves until killed. The control
//! endpoint has no authentication: it is a test tool.
//!
//! | request | does |
//! |---|---|
//! | `GET /ready` | 200 |
//! | `GET /toxics` | rules in force, each with how often it struck |
//! | `PUT /toxics` | replaces the rules by the JSON array sent |
//! | `DELETE /toxics` | heals everything |
//! | `PUT /availability` | `"up"`, `"unavailable"` or `"refusing"` |
//! | `GET /traffic` | requests and bytes by operation |
//! | `DELETE /traffic` | starts counting anew |
//! | `GET /objects?prefix=P` | keys and sizes, past HTTP and toxics |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{Query, State};
use axum::routing::{get, put};
use axum::{Json, Router};
use clap::Parser;
use serde::Deserialize;
use vivace_e2e::s3::{ACCESS_KEY, Availability, Dialect, Op, Rule, Rules, S3Options, S3Server, SECRET_KEY};

#[derive(Debug, Parser)]
#[command(about = "An S3-compatible store in memory that can be told to misbehave")]
struct Args {
    /// Where to serve S3.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to serve the control endpoint.
    #[arg(long, default_value = "127.0.0.1:0")]
    control_listen: SocketAddr,
    /// A bucket that exists from the start; may be given several times.
    #[arg(long = "bucket", default_value = "traces")]
    buckets: Vec<String>,
    #[arg(long, default_value = ACCESS_KEY)]
    access_key: String,
    #[arg(long, default_value = SECRET_KEY)]
    secret_key: String,
    /// Speak Google's XML API instead of S3, and turn nobody away.
    #[arg(long)]
    gcs: bool,
    /// For the toxics' draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most keys in one LIST page.
    #[arg(long, default_value_t = 1_000)]
    list_page_max: usize,
    /// A JSON array of rules to start with.
    #[arg(long)]
    toxics: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = S3Options {
        listen: args.listen,
        buckets: args.buckets,
        access_key: args.access_key,
        secret_key: args.secret_key,
        rules: Rules {
            list_page_max: args.list_page_max,
            ..Rules::default()
        },
        seed: args.seed,
        dialect: if args.gcs { Dialect::Gcs } else { Dialect::S3 },
    };
    let server = Arc::new(
        S3Server::start(options)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?,
    );
    if let Some(rules) = &args.toxics {
        server
            .toxics()
            .set(serde_json::from_str(rules).context("--toxics is not an array of rules")?);
    }
    let control = tokio::net::TcpListener::bind(args.control_listen)
        .await
        .context("cannot bind the control port")?;
    println!("listening s3 {}", server.addr());
    println!("listening control {}", control.local_addr()?);
    axum::serve(control, router(server))
        .await
        .context("the control endpoint failed")
}

fn router(server: Arc<S3Server>) -> Router {
    Router::new()
        .route("/ready", get(async || "ready"))
        .route("/toxics", get(rules).put(set_rules).delete(heal))
        .route("/availability", put(set_availability))
        .route("/traffic", get(traffic).delete(reset_traffic))
        .route("/objects", get(objects))
        .with_state(server)
}

type Server = State<Arc<S3Server>>;

async fn rules(State(server): Server) -> Json<Vec<serde_json::Value>> {
    let rules = server.toxics().rules();
    Json(
        rules
            .into_iter()
            .map(|(rule, struck)| serde_json::json!({"rule": rule, "struck": struck}))
            .collect(),
    )
}

async fn set_rules(State(server): Server, Json(rules): Json<Vec<Rule>>) {
    server.toxics().set(rules);
}

async fn heal(State(server): Server) {
    server.toxics().heal();
}

async fn set_availability(State(server): Server, Json(availability): Json<Availability>) {
    server.toxics().set_availability(availability);
    server.reachable(availability != Availability::Refusing).await;
}

async fn traffic(State(server): Server) -> Json<BTreeMap<String, serde_json::Value>> {
    let name = |op: Op| {
        serde_json::to_value(op)
            .ok()
            .and_then(|name| name.as_str().map(str::to_owned))
    };
    let by_op = server.traffic().by_op().into_iter();
    Json(
        by_op
            .filter_map(|(op, counts)| Some((name(op)?, serde_json::to_value(counts).ok()?)))
            .collect(),
    )
}

async fn reset_traffic(State(server): Server) {
    server.traffic().reset();
}

#[derive(Debug, Deserialize)]
struct Listing {
    #[serde(default)]
    prefix: String,
}

async fn objects(State(server): Server, Query(listing): Query<Listing>) -> Json<Vec<serde_json::Value>> {
    let objects = server.memory().objects(server.bucket(), &listing.prefix);
    let rows = objects
        .into_iter()
        .map(|(key, object)| serde_json::json!({"key": key, "bytes": object.data.len(), "etag": object.etag}));
    Json(rows.collect())
}
