//! An object store that refuses: a node that starts on it says in one line what to do and does not start; one that runs
//! keeps what it cannot store, deletes and skips nothing, and goes on by itself when it is let in again.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AttributeValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use serde_json::{Value, json};
use vivace_e2e::client::{Otlp, Reply, Tempo};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::process::{Node, Scratch};
use vivace_e2e::s3::{Conditions, Op, Rule, Rules, S3Options, S3Server, SECRET_KEY, Toxic};
use vivace_e2e::skip::skipped;
use vivace_e2e::spans::{Workload, mix};
use vivace_e2e::stores::{Kind, Settings, start};

use crate::fixture::{Fixture, assert_retry_info, eventually, fixture, read_everything, send};

const TENANT: &str = "single-tenant";
/// Far more than a start takes that ends with an error.
const REFUSED_WITHIN: Duration = Duration::from_secs(90);

const CREDENTIALS: &str = "the credentials are missing, wrong or expired";
const BUCKET: &str = "the bucket does not exist: create it, or correct its name";
const ALLOWED: &str = "the credentials are not allowed to: grant put, get and delete on the prefix";
const REGION: &str = "the bucket is in another region: set storage.s3.region";
const CONDITIONS: &str = "use a store that honours If-None-Match";

/// Starts a node that must refuse to, and gives its last words.
async fn refused(fixture: &Fixture, storage: Value) -> String {
    let mut settings = fixture.options.settings.clone();
    settings["storage"] = storage;
    settings["storage"]["retries_max"] = json!(1);
    let config = fixture.scratch.path().join("refused.yaml");
    std::fs::write(&config, settings.to_string()).unwrap();
    let mut command = tokio::process::Command::new(&fixture.options.bin);
    command.args(["standalone", "--http-listen", "127.0.0.1:0"]);
    command.args(["--otlp-grpc-listen", "127.0.0.1:0", "--otlp-http-listen", "127.0.0.1:0"]);
    command
        .arg("--data-dir")
        .arg(&fixture.options.data_dir)
        .arg("--config")
        .arg(&config);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(REFUSED_WITHIN, output).await;
    let output = output.expect("it gives up").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, last) = (text(&output.stdout), text(&output.stderr));
    assert!(!output.status.success(), "{said}{last}");
    // Neither an address nor `ready`: nobody was told to come.
    assert!(
        !said
            .lines()
            .any(|line| line == "ready" || line.starts_with("listening")),
        "{said}"
    );
    assert!(
        !said.contains(SECRET_KEY) && !last.contains(SECRET_KEY) && !last.contains("panicked"),
        "{said}{last}"
    );
    let last: Vec<&str> = last.lines().filter(|line| line.starts_with("object store: ")).collect();
    assert_eq!(last.len(), 1, "one line: {last:?}");
    last[0].to_owned()
}

/// What a client that was given something wrong is told.
fn spoil(settings: &Settings, wrong: &str) -> Settings {
    let Settings::S3 {
        endpoint,
        bucket,
        access_key,
        secret_key,
    } = settings.clone()
    else {
        unreachable!("these stores speak S3")
    };
    let or = |field: &str, right: String| if field == wrong { format!("not-{right}") } else { right };
    Settings::S3 {
        endpoint,
        bucket: or("bucket", bucket),
        access_key: or("access key", access_key),
        secret_key: or("secret key", secret_key),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_what_to_do() {
    let Some(fixture) = fixture("store_refuses::start", json!({})) else {
        return;
    };
    let secrets = fixture.scratch.path().join("secrets");
    let server = S3Server::start(S3Options::default()).await.unwrap();
    let right = Settings::of(&server);
    for (wrong, advice) in [
        ("access key", CREDENTIALS),
        ("secret key", CREDENTIALS),
        ("bucket", BUCKET),
    ] {
        let said = refused(&fixture, spoil(&right, wrong).for_node(&secrets).unwrap()).await;
        assert!(said.contains(advice), "{wrong}: {said}");
    }
    let fail = |status: u16, code: &str| Toxic::Fail {
        status,
        code: code.to_owned(),
    };
    for (ops, toxic, advice) in [
        (vec![], fail(400, "ExpiredToken"), CREDENTIALS),
        (vec![], fail(301, "PermanentRedirect"), REGION),
        (vec![], fail(400, "AuthorizationHeaderMalformed"), REGION),
        (
            vec![],
            fail(403, "RequestTimeTooSkewed"),
            "the clock of this machine is wrong",
        ),
        (vec![Op::Put], Toxic::forbidden(), ALLOWED),
        (vec![Op::Get], Toxic::forbidden(), ALLOWED),
        (vec![Op::Delete, Op::DeleteMany], Toxic::forbidden(), ALLOWED),
    ] {
        server.toxics().set(vec![Rule::always(&ops, toxic.clone())]);
        let said = refused(&fixture, right.for_node(&secrets).unwrap()).await;
        assert!(said.contains(advice), "{ops:?} {toxic:?}: {said}");
        let left = server.memory().objects(server.bucket(), "");
        assert!(left.iter().all(|(key, _)| key.contains("probe-")), "{left:?}");
    }
    server.toxics().heal();
    // What the failed starts left behind is in nobody's way.
    let mut well = fixture;
    well.options.settings["storage"] = right.for_node(&secrets).unwrap();
    well.start().await.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditions_is_refused() {
    let Some(fixture) = fixture("store_refuses::conditions", json!({})) else {
        return;
    };
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        let rules = Rules {
            conditions,
            ..Rules::default()
        };
        let server = S3Server::start(S3Options {
            rules,
            ..S3Options::default()
        })
        .await
        .unwrap();
        let storage = Settings::of(&server).for_node(&fixture.scratch.path().join("secrets"));
        let said = refused(&fixture, storage.unwrap()).await;
        assert!(said.contains(CONDITIONS), "{conditions:?}: {said}");
        let left = server.memory().objects(server.bucket(), "");
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_says_it_in_words_that_are_understood() {
    let Some(fixture) = fixture("store_refuses::minio", json!({})) else {
        return;
    };
    let scratch = Scratch::new("store-refuses-minio").unwrap();
    let store = match start(Kind::Minio, scratch.path()).await {
        Ok(store) => store.unwrap(),
        Err(reason) => return skipped("store_refuses::minio", &reason),
    };
    let secrets = fixture.scratch.path().join("secrets");
    for (wrong, advice) in [
        ("access key", CREDENTIALS),
        ("secret key", CREDENTIALS),
        ("bucket", BUCKET),
    ] {
        let said = refused(&fixture, spoil(&store.settings, wrong).for_node(&secrets).unwrap()).await;
        assert!(said.contains(advice), "{wrong}: {said}");
    }
    let mut well = fixture;
    well.options.settings["storage"] = store.settings.for_node(&secrets).unwrap();
    well.start().await.stop().await.unwrap();
}

/// What can be refused while a node runs.
enum Refusal {
    /// The keys are no longer valid; new ones come by their files.
    Keys,
    /// Every request is answered so until it is not.
    Toxic(Toxic),
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_while_it_runs_pass_without_loss() {
    // Housekeeping that could delete runs all the time.
    let settings = json!({
        "compaction": {"interval": "1s", "window": "1m"},
        "retention": {"interval": "1s", "delete_grace": "1m"},
    });
    let Some(mut fixture) = fixture("store_refuses::running", settings) else {
        return;
    };
    let server = S3Server::start(S3Options::default()).await.unwrap();
    let secrets = fixture.scratch.path().join("secrets");
    let mut storage = Settings::of(&server).for_node(&secrets).unwrap();
    // Else the disk answers for the store.
    storage["read_cache"] = json!("0B");
    storage["retries_max"] = json!(1);
    fixture.options.settings["storage"] = storage;
    let ledger = Ledger::new(Workload::starting_now(12), [(1, TENANT.to_owned())]);
    let node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    let mut sent = 0;
    let mut send_some = async || {
        assert_eq!(send(&mut otlp, &ledger, 1, sent, 50).await, Reply::Accepted);
        sent += 50;
    };
    send_some().await;
    stored(&node).await;
    let expired = Toxic::Fail {
        status: 400,
        code: "ExpiredToken".to_owned(),
    };
    for refusal in [
        Refusal::Toxic(Toxic::forbidden()),
        Refusal::Toxic(expired),
        Refusal::Keys,
    ] {
        let blocks = || -> BTreeSet<String> {
            let objects = server.memory().objects(server.bucket(), "");
            objects
                .into_iter()
                .map(|(key, _)| key)
                .filter(|key| key.ends_with(".parquet"))
                .collect()
        };
        let before = server.traffic().count(Op::Put, "").failed;
        match &refusal {
            Refusal::Keys => server.change_keys("another-key", "another-secret"),
            Refusal::Toxic(toxic) => server.toxics().set(vec![Rule::always(&[], toxic.clone())]),
        }
        let known = blocks();
        send_some().await;
        // It tries, is refused, and tries again.
        eventually("several refused writes", 60, async || {
            server.traffic().count(Op::Put, "").failed >= before + 3
        })
        .await;
        send_some().await;
        assert!(blocks().is_superset(&known), "nothing was deleted");
        let tempo = Tempo::new(&node.http_url(), None).unwrap();
        let live = ledger.workload().trace_ids(1, sent_before(&ledger), 1)[0];
        assert!(
            !tempo.trace(live).await.unwrap().resource_spans.is_empty(),
            "what is live is found"
        );
        match &refusal {
            Refusal::Keys => {
                let Settings::S3 { endpoint, bucket, .. } = Settings::of(&server) else {
                    unreachable!()
                };
                let (access_key, secret_key) = ("another-key".to_owned(), "another-secret".to_owned());
                let renewed = Settings::S3 {
                    endpoint,
                    bucket,
                    access_key,
                    secret_key,
                };
                renewed.for_node(&secrets).unwrap();
            }
            Refusal::Toxic(_) => server.toxics().heal(),
        }
        stored(&node).await;
        let verdict = read_everything(&node, &ledger, TENANT).await.unwrap();
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!(verdict.required, ledger.acknowledged());
    }
    node.stop().await.unwrap();
}

/// What a bucket without the right to write does not do.
const WRITES: [Op; 7] = [
    Op::Put,
    Op::Copy,
    Op::Delete,
    Op::DeleteMany,
    Op::CreateMultipart,
    Op::UploadPart,
    Op::CompleteMultipart,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_may_only_be_read_holds_up_writes_and_no_questions() {
    let settings = json!({"wal": {"quota_bytes": "64MiB"}});
    let Some(mut fixture) = fixture("store_refuses::read_only", settings) else {
        return;
    };
    let server = S3Server::start(S3Options::default()).await.unwrap();
    let mut storage = Settings::of(&server)
        .for_node(&fixture.scratch.path().join("secrets"))
        .unwrap();
    // Else the disk answers for the store.
    storage["read_cache"] = json!("0B");
    storage["retries_max"] = json!(1);
    fixture.options.settings["storage"] = storage;
    let ledger = Ledger::new(Workload::starting_now(13), [(1, TENANT.to_owned())]);
    let node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    assert_eq!(send(&mut otlp, &ledger, 1, 0, 50).await, Reply::Accepted);
    stored(&node).await;
    node.stop().await.unwrap();

    server.toxics().set(vec![Rule::always(&WRITES, Toxic::forbidden())]);
    let node = fixture.start().await;
    eventually("what it may not do, and what to grant", 30, async || {
        node.process.lines().iter().any(|line| line.contains(ALLOWED))
    })
    .await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    assert_eq!(send(&mut otlp, &ledger, 1, 50, 50).await, Reply::Accepted);
    let all_there = async |node: &Node, when: &str| {
        let verdict = read_everything(node, &ledger, TENANT).await;
        let verdict = verdict.unwrap_or_else(|error| panic!("{when}: {error:#}"));
        assert!(verdict.is_clean(), "{when}: {verdict}");
        assert_eq!(verdict.required, ledger.acknowledged(), "{when}");
        node.assert_no_panic().unwrap();
    };
    all_there(&node, "while nothing can be stored").await;
    fill(&mut otlp).await;
    assert_retry_info(&node, ledger.workload().request(2, 0, 1)).await;
    all_there(&node, "with a full log").await;

    // A life on a log that is full and a store that takes nothing.
    node.stop().await.unwrap();
    let node = fixture.start().await;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    all_there(&node, "after a restart with a full log").await;
    fill(&mut otlp).await;

    server.toxics().heal();
    let mut next = 100;
    eventually("writes are taken again", 90, async || {
        next += 50;
        send(&mut otlp, &ledger, 1, next, 50).await == Reply::Accepted
    })
    .await;
    stored(&node).await;
    all_there(&node, "when it may write again").await;
    node.stop().await.unwrap();
}

/// Refused so often in a row, a log has no room for requests of this size; once may be a queue that is full for a moment.
const REFUSED_WHEN_FULL: u32 = 20;

/// Sends spans that do not compress well, and that nobody asks for, until the node has no room for more: first many at
/// once, then one by one.
async fn fill(otlp: &mut Otlp) {
    let mut state = 0_u64;
    for spans in [100, 1] {
        let mut refused = 0;
        let mut tries = 0;
        while refused < REFUSED_WHEN_FULL {
            tries += 1;
            assert!(tries < 2_000, "nothing can be stored, and nothing was refused");
            match otlp.export(filler(&mut state, spans)).await {
                Reply::Accepted => refused = 0,
                Reply::Busy(said) | Reply::Broken(said) if said.contains("the log") => {
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn filler(state: &mut u64, spans: usize) -> ExportTraceServiceRequest {
    let mut draw = || {
        *state += 1;
        mix(0xF177, *state)
    };
    let spans = (0..spans).map(|_| {
        let text = (0..180).map(|_| format!("{:x}", draw())).collect::<String>();
        let value = AnyValue {
            value: Some(AttributeValue::StringValue(text.chars().take(2_000).collect())),
        };
        Span {
            trace_id: [draw().to_be_bytes(), draw().to_be_bytes()].concat(),
            span_id: draw().to_be_bytes().to_vec(),
            name: "filler".to_owned(),
            attributes: vec![KeyValue {
                key: "filler".to_owned(),
                value: Some(value),
                ..Default::default()
            }],
            ..Default::default()
        }
    });
    let scope_spans = vec![ScopeSpans {
        spans: spans.collect(),
        ..Default::default()
    }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans,
            ..Default::default()
        }],
    }
}

/// The first span of the last batch that was acknowledged.
fn sent_before(ledger: &Ledger) -> u64 {
    ledger.acknowledged() as u64 - 50
}

async fn stored(node: &Node) {
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    eventually("everything in blocks", 90, async || {
        tempo.metric("vivace_live_spans").await.unwrap() == Some(0.0)
    })
    .await;
}
