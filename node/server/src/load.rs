//! `vivace load`: sends generated traces to an OTLP receiver and measures how it takes them.
//!
//! Owns [`LoadArgs`] (the words), [`Plan`] (what they mean) and [`run`], which benches and tests call too. What is sent
//! comes from [`template`]; how it is sent and retried is [`send`]; what is said at the end is [`report`].
//!
//! A generator must cost far less than what it measures: requests are encoded once and copied with new ids and times
//! (`--dry-run` measures that part alone).

mod piece;
pub mod report;
mod send;
pub mod template;
mod world;

use std::io::{IsTerminal as _, Write as _};
use std::net::ToSocketAddrs as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use settings::Period;

pub use report::Report;
use report::Tally;
use template::Templates;

#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Receiver to send to, host:port [default: 127.0.0.1:4317, or :4318 with --protocol http]
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<String>,
    /// OTLP over gRPC, or OTLP over HTTP/1.1 with protobuf
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    pub protocol: Protocol,
    /// Spans per second; without it, as fast as they are acknowledged
    #[arg(long, value_name = "SPANS_PER_SECOND")]
    pub rate: Option<f64>,
    /// Stop after this many spans, rounded up to whole requests
    #[arg(long, conflicts_with = "duration")]
    pub spans: Option<u64>,
    /// Stop after this time; with --rate, when all that is due in it was sent [default: 30s, unless --spans is given]
    #[arg(long)]
    pub duration: Option<Period>,
    /// Connections
    #[arg(long, default_value_t = 4)]
    pub connections: u32,
    /// Requests in flight on each connection (gRPC; HTTP/1.1 has one)
    #[arg(long, default_value_t = 4)]
    pub in_flight: u32,
    /// Tenant, sent as X-Scope-OrgID
    #[arg(long)]
    pub tenant: Option<String>,
    /// The same seed gives the same traces
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Give up on a request after retrying it for this long
    #[arg(long, default_value = "1m")]
    pub retry_for: Period,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Make the requests and send nothing: what the generator itself costs
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Grpc,
    Http,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Until {
    Spans(u64),
    Elapsed(Duration),
}

/// What to send where.
#[derive(Debug, Clone)]
pub struct Plan {
    pub endpoint: std::net::SocketAddr,
    pub protocol: Protocol,
    /// Spans per second; `None`: as fast as they are acknowledged.
    pub rate: Option<f64>,
    pub until: Until,
    pub connections: u32,
    pub in_flight: u32,
    pub tenant: Option<String>,
    pub retry_for: Duration,
}

/// Spans of `--dry-run` without `--spans`.
const DRY_SPANS: u64 = 5_000_000;

impl LoadArgs {
    /// Errors: an endpoint that has no address, or numbers that make no sense.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let default = match self.protocol {
            Protocol::Grpc => "127.0.0.1:4317",
            Protocol::Http => "127.0.0.1:4318",
        };
        let endpoint = self.endpoint.as_deref().unwrap_or(default);
        anyhow::ensure!(
            !endpoint.starts_with("https://"),
            "--endpoint: TLS is not spoken here, use a plain port"
        );
        let name = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let mut addresses = name
            .to_socket_addrs()
            .map_err(|error| anyhow::anyhow!("--endpoint {name}: {error}"))?;
        let endpoint = addresses
            .next()
            .ok_or_else(|| anyhow::anyhow!("--endpoint {name}: no address"))?;
        if let Some(rate) = self.rate {
            anyhow::ensure!(rate.is_finite() && rate > 0.0, "--rate must be above 0");
        }
        anyhow::ensure!(
            self.connections > 0 && self.in_flight > 0,
            "--connections and --in-flight must be above 0"
        );
        let until = match (self.spans, self.duration) {
            (Some(spans), _) => Until::Spans(spans),
            (None, duration) => Until::Elapsed(duration.unwrap_or(Period::secs(30)).duration()),
        };
        Ok(Plan {
            endpoint,
            protocol: self.protocol,
            rate: self.rate,
            until,
            connections: self.connections,
            in_flight: if self.protocol == Protocol::Http {
                1
            } else {
                self.in_flight
            },
            tenant: self.tenant.clone(),
            retry_for: self.retry_for.duration(),
        })
    }
}

/// The command: runs the plan, shows progress on a terminal, prints the report on stdout.
pub async fn command(args: LoadArgs) -> anyhow::Result<()> {
    let templates = Arc::new(Templates::new(args.seed));
    if args.dry_run {
        let dry = dry_run(&templates, args.spans.unwrap_or(DRY_SPANS));
        println!("{dry}");
        return Ok(());
    }
    let plan = args.plan()?;
    let tally = Arc::new(Tally::default());
    let progress = std::io::stderr()
        .is_terminal()
        .then(|| tokio::spawn(show_progress(plan.until, Arc::clone(&tally))));
    let trouble = tokio::spawn(tell_trouble(plan.clone(), Arc::clone(&tally)));
    let report = run(&plan, templates, &tally).await;
    trouble.abort();
    if let Some(progress) = progress {
        progress.abort();
        eprint!("\r\x1b[K");
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    anyhow::ensure!(
        report.spans_failed == 0,
        "{} spans were not acknowledged",
        report.spans_failed
    );
    Ok(())
}

/// Sends until the plan is fulfilled and reports. `tally` may be watched meanwhile.
pub async fn run(plan: &Plan, templates: Arc<Templates>, tally: &Arc<Tally>) -> Report {
    let begun = Instant::now();
    let cpu_begun = report::process_cpu();
    let schedule = Arc::new(send::Schedule::new(plan, Arc::clone(&templates)));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..plan.connections {
        workers.spawn(send::connection(plan.clone(), Arc::clone(&schedule), Arc::clone(tally)));
    }
    while workers.join_next().await.is_some() {}
    let cpu = report::process_cpu()
        .zip(cpu_begun)
        .map(|(now, then)| now.saturating_sub(then));
    tally.report(begun.elapsed(), cpu)
}

/// What making requests costs, on one thread.
fn dry_run(templates: &Templates, spans: u64) -> String {
    let begun = Instant::now();
    let (mut made, mut bytes, mut request) = (0, 0, 0);
    while made < spans {
        let copy = (request / templates.len()) as u64;
        let body = templates.copy(copy, request % templates.len(), 1_700_000_000_000_000_000);
        // Without looking at it the compiler might leave the copy out.
        bytes += std::hint::black_box(body).len() as u64;
        made += u64::from(templates.spans_of(request));
        request += 1;
    }
    let took = begun.elapsed();
    format!(
        "{made} spans in {took:.2?}: {:.0} ns per span, {} bytes per span, {} requests of {} spans",
        took.as_nanos() as f64 / made as f64,
        bytes / made,
        request,
        made / request as u64,
    )
}

/// Says once, and at once, that requests do not arrive: a wrong address would otherwise be silent until they are given up.
async fn tell_trouble(plan: Plan, tally: Arc<Tally>) {
    let why = tally.trouble().await;
    let (endpoint, retry_for) = (plan.endpoint, plan.retry_for);
    let clear = if std::io::stderr().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
    };
    eprintln!("{clear}{endpoint}: {why}; every request is sent again for up to {retry_for:?}");
}

async fn show_progress(until: Until, tally: Arc<Tally>) {
    const WIDTH: usize = 30;
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tick.tick().await;
        let elapsed = begun.elapsed();
        let acknowledged = tally.acknowledged();
        let share = match until {
            Until::Spans(spans) => acknowledged as f64 / spans.max(1) as f64,
            Until::Elapsed(all) => elapsed.as_secs_f64() / all.as_secs_f64(),
        };
        let filled = (share.clamp(0.0, 1.0) * WIDTH as f64) as usize;
        let rate = acknowledged as f64 / elapsed.as_secs_f64().max(0.001);
        eprint!(
            "\r\x1b[K[{}{}] {:3.0} %  {acknowledged} spans  {rate:.0}/s  p99 {:.1?}  retries {}",
            "#".repeat(filled),
            "-".repeat(WIDTH - filled),
            share.clamp(0.0, 1.0) * 100.0,
            tally.quantile(0.99),
            tally.retries(),
        );
        let _ = std::io::stderr().flush();
    }
}
