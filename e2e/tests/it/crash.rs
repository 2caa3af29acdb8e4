//! kill -9 in mid-load, many times: every acknowledged span is there exactly once, and nothing else is.
//!
//! Four writers for two tenants send over both transports; some batches are sent again after they were acknowledged.
//! At a moment drawn from the seed the node is killed, and started again on the same folder. `VIVACE_CRASHES` says how
//! often (default 20), `VIVACE_SEED` repeats a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::task::JoinSet;
use vivace_e2e::client::{Otlp, Reply};
use vivace_e2e::ledger::{Ledger, Verdict};
use vivace_e2e::process::Node;
use vivace_e2e::s3::{Availability, Op, Rule, S3Options, S3Server, Toxic};
use vivace_e2e::spans::{Workload, mix};
use vivace_e2e::stores::Settings;

use crate::fixture::{Fixture, eventually, fixture, is_parquet, read_everything, read_what_answers, send};

const TENANTS: [&str; 2] = ["team-a", "team-b"];
const WRITERS: u16 = 4;
/// Spans of one request.
const BATCH: u64 = 40;
/// Of so many acknowledged batches one is sent again.
const RESEND_EVERY: u64 = 10;
/// Acknowledgements after which a life ends, at least and at most.
const LIFE: (u64, u64) = (5, 40);

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn tenancy() -> serde_json::Value {
    json!({"multitenancy_enabled": true, "tenants_auto": true})
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_local_folder() {
    let Some(fixture) = fixture("crash::folder", json!({"tenancy": tenancy()})) else {
        return;
    };
    let run = Run::new(&fixture);
    for life in 0..number_from("VIVACE_CRASHES", 20) {
        run.live_and_die(&fixture, life, Store::Well).await;
    }
    run.assert_everything(&fixture).await;
    assert!(
        !fixture.parquet_files().is_empty(),
        "some of it was flushed, or this proves little"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_failing_object_store() {
    let server = S3Server::start(S3Options {
        seed: seed(),
        ..S3Options::default()
    })
    .await
    .unwrap();
    let Some(mut fixture) = fixture("crash::toxic_s3", json!({"tenancy": tenancy()})) else {
        return;
    };
    let mut storage = Settings::of(&server)
        .for_node(&fixture.scratch.path().join("secrets"))
        .unwrap();
    // Failures are common here: what would be patience elsewhere would only make the test long.
    storage["retry_budget"] = json!("2s");
    storage["request_timeout"] = json!("5s");
    fixture.options.settings["storage"] = storage;

    let run = Run::new(&fixture);
    for life in 0..number_from("VIVACE_CRASHES", 20) {
        // A cluster is founded on a store that works; later lives begin without one, too.
        if life > 0 {
            server.toxics().set(faults());
        }
        // Every fourth life passes without any store at all.
        let away = life % 4 == 3;
        server
            .toxics()
            .set_availability(if away { Availability::Refusing } else { Availability::Up });
        let store = if away { Store::Away } else { Store::Failing };
        run.live_and_die(&fixture, life, store).await;
    }
    server.toxics().heal();
    server.reachable(true).await;
    run.assert_everything(&fixture).await;
    let objects = server.memory().objects(server.bucket(), "");
    assert!(
        objects.iter().any(|(_, object)| is_parquet(&object.data)),
        "some of it was flushed"
    );
}

/// Everything that a bad day brings, at once.
fn faults() -> Vec<Rule> {
    vec![
        Rule::always(&[], Toxic::Latency { ms: 1, jitter_ms: 30 }),
        Rule::sometimes(&[], 0.05, Toxic::slow_down()),
        Rule::sometimes(&[], 0.03, Toxic::internal()),
        Rule::sometimes(&[], 0.02, Toxic::DropRequest),
        Rule::sometimes(
            &[Op::Put, Op::CompleteMultipart, Op::UploadPart, Op::Delete],
            0.10,
            Toxic::DropReply,
        ),
        Rule::sometimes(&[Op::Get], 0.05, Toxic::TruncateBody { keep_percent: 60 }),
        Rule::sometimes(&[Op::Get], 0.05, Toxic::FlipBit),
        Rule::sometimes(&[Op::List], 0.5, Toxic::StaleList { mutations: 3 }),
    ]
}

fn seed() -> u64 {
    number_from("VIVACE_SEED", 20_261_122)
}

#[derive(Clone, Copy)]
enum Store {
    Well,
    Failing,
    Away,
}

struct Run {
    ledger: Arc<Ledger>,
    /// The next sequence number of each writer.
    next: Arc<[AtomicU64; WRITERS as usize]>,
}

impl Run {
    fn new(fixture: &Fixture) -> Self {
        let workload = Workload::starting_now(seed());
        println!("VIVACE_SEED={}", workload.seed());
        let tenants = (0..WRITERS).map(|client| (client, tenant_of(client).to_owned()));
        let ledger = Ledger::new(workload, tenants)
            .logging_to(&fixture.scratch.path().join("ledger.jsonl"))
            .unwrap();
        Self {
            ledger: Arc::new(ledger),
            next: Arc::new([const { AtomicU64::new(0) }; WRITERS as usize]),
        }
    }

    /// Starts the node, checks what the last death left, writes for a while, kills it.
    async fn live_and_die(&self, fixture: &Fixture, life: u64, store: Store) {
        let mut node = fixture.start().await;
        let draw = mix(self.ledger.workload().seed(), life);
        // A full read takes longer than a life; a few of them are enough to say after which death something broke.
        if life % 5 == 4 {
            let when = format!("after {life} deaths");
            match store {
                Store::Well => self.assert_clean(&node, &when).await,
                Store::Failing => self.assert_honest(&node, &when).await,
                // Every answer would wait for its retries to run out, thousands of times.
                Store::Away => Verdict::default(),
            };
        }
        let until = LIFE.0 + draw % (LIFE.1 - LIFE.0);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for client in 0..WRITERS {
            writers.spawn(write(
                self.clone_handles(),
                client,
                addresses(&node),
                Arc::clone(&acknowledged),
            ));
        }
        eventually(&format!("{until} acknowledgements in life {life}"), 60, async || {
            acknowledged.load(Ordering::Relaxed) >= until
        })
        .await;
        node.process.kill().await.unwrap();
        node.assert_no_panic().unwrap();
        while let Some(writer) = writers.join_next().await {
            writer.unwrap();
        }
    }

    async fn assert_everything(&self, fixture: &Fixture) {
        let node = fixture.start().await;
        self.assert_clean(&node, "after the last death").await;
        node.stop().await.unwrap();
        let node = fixture.start().await;
        let verdict = self.assert_clean(&node, "after an orderly restart").await;
        println!("{verdict}");
        assert_eq!(verdict.required, self.ledger.acknowledged());
        node.stop().await.unwrap();
    }

    async fn assert_clean(&self, node: &Node, when: &str) -> Verdict {
        let mut sum = Verdict::default();
        for tenant in TENANTS {
            let verdict = read_everything(node, &self.ledger, tenant).await;
            sum.absorb(verdict.unwrap_or_else(|error| panic!("{when}: {error:#}")));
        }
        assert!(
            sum.is_clean(),
            "{when}, VIVACE_SEED={}: {sum}",
            self.ledger.workload().seed()
        );
        sum
    }

    /// What is answered in full is right, and the rest is said to be missing.
    async fn assert_honest(&self, node: &Node, when: &str) -> Verdict {
        let (mut sum, mut missing) = (Verdict::default(), 0);
        for tenant in TENANTS {
            let (verdict, left_out) = read_what_answers(node, &self.ledger, tenant).await.unwrap();
            sum.absorb(verdict);
            missing += left_out;
        }
        println!("{when}: {sum}; {missing} traces not answered in full");
        assert!(
            sum.is_clean(),
            "{when}, VIVACE_SEED={}: {sum}",
            self.ledger.workload().seed()
        );
        sum
    }

    fn clone_handles(&self) -> Self {
        Self {
            ledger: Arc::clone(&self.ledger),
            next: Arc::clone(&self.next),
        }
    }
}

fn tenant_of(client: u16) -> &'static str {
    TENANTS[usize::from(client) % TENANTS.len()]
}

fn addresses(node: &Node) -> (String, String) {
    (node.otlp_grpc_url(), node.otlp_http_url())
}

/// Writes until the node is gone.
async fn write(run: Run, client: u16, (grpc, http): (String, String), acknowledged: Arc<AtomicU64>) {
    let tenant = Some(tenant_of(client));
    let mut otlp = if client < WRITERS / 2 {
        Otlp::grpc(&grpc, tenant)
    } else {
        Otlp::http(&http, tenant)
    }
    .unwrap();
    let next = &run.next[usize::from(client)];
    loop {
        let first = next.fetch_add(BATCH, Ordering::Relaxed);
        match send(&mut otlp, &run.ledger, client, first, BATCH).await {
            Reply::Accepted => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Reply::Broken(_) => return,
            Reply::Busy(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            refused @ (Reply::Refused(_) | Reply::Partial { .. }) => panic!("client {client} at {first}: {refused:?}"),
        }
        if (first / BATCH).is_multiple_of(RESEND_EVERY) {
            // A client whose acknowledgement was lost sends the same again; it must not be stored twice.
            send(&mut otlp, &run.ledger, client, first, BATCH).await;
        }
    }
}
