//! The load generator against a door that answers as told.

use std::sync::Arc;
use std::time::Duration;

use server::ingest::IngestOutcome;
use server::load::report::Tally;
use server::load::template::Templates;
use server::load::{Plan, Protocol, Report, Until, run};
use server::refusal::{Kind, Refusal};

use crate::door::{Door, open};

fn plan(door: &Door, protocol: Protocol, spans: u64) -> Plan {
    Plan {
        endpoint: if protocol == Protocol::Grpc {
            door.grpc
        } else {
            door.http
        },
        protocol,
        rate: None,
        until: Until::Spans(spans),
        connections: 2,
        in_flight: if protocol == Protocol::Grpc { 2 } else { 1 },
        tenant: None,
        retry_for: Duration::from_secs(20),
    }
}

async fn send(door: &Door, plan: &Plan) -> Report {
    let _ = door;
    run(plan, Arc::new(Templates::new(1)), &Arc::new(Tally::default())).await
}

#[tokio::test]
async fn everything_is_acknowledged_over_both_transports() {
    let door = open("limits: {defaults: {ingest_rate: 1GB, ingest_burst: 1GB}}").await;
    for protocol in [Protocol::Grpc, Protocol::Http] {
        door.recorder.taken.lock().clear();
        let report = send(&door, &plan(&door, protocol, 2_000)).await;
        assert_eq!((report.spans_failed, report.retries, report.last_failure), (0, 0, None));
        assert!(
            (2_000..2_600).contains(&report.spans_acknowledged),
            "{}",
            report.spans_acknowledged
        );
        assert_eq!(door.taken().len() as u64, report.requests);
        let bytes: usize = door.taken().iter().map(|(_, body)| body.len()).sum();
        assert_eq!(bytes as u64, report.bytes);
    }
}

#[tokio::test]
async fn a_rate_is_kept() {
    let door = open("").await;
    let slow = Plan {
        rate: Some(3_000.0),
        ..plan(&door, Protocol::Grpc, 1_500)
    };
    let report = send(&door, &slow).await;
    // Five requests of 300 spans, the last due after 0.4 s.
    assert!(report.seconds >= 0.39, "{report}");
    assert_eq!(report.spans_failed, 0);
}

#[tokio::test]
async fn throttling_is_waited_out_and_counted() {
    let door = open("").await;
    door.answer(Err(Refusal::throttled("later", Duration::from_millis(50))));
    let (recorder, wanted) = (door.recorder.clone(), 6);
    // After some refusals it goes on.
    tokio::spawn(async move {
        while recorder.taken.lock().len() < wanted {
            tokio::task::yield_now().await;
        }
        *recorder.answer.lock() = None;
    });
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let report = send(&door, &plan(&door, protocol, 600)).await;
        assert_eq!(report.spans_failed, 0, "{report}");
        if protocol == Protocol::Grpc {
            assert!(report.throttled >= 1 && report.retries >= report.throttled, "{report}");
        }
    }
}

#[tokio::test]
async fn what_can_never_succeed_is_not_retried() {
    let door = open("").await;
    door.answer(Err(Refusal::new(Kind::Rejected, "broken")));
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let report = send(&door, &plan(&door, protocol, 600)).await;
        assert_eq!((report.spans_acknowledged, report.retries), (0, 0));
        assert!(report.spans_failed >= 600 && report.last_failure.unwrap().contains("broken"));
    }
}

#[tokio::test]
async fn spans_refused_by_name_are_not_counted_as_acknowledged() {
    let door = open("").await;
    door.answer(Ok(IngestOutcome {
        accepted_spans: 290,
        rejected_spans: 10,
        message: "ten".into(),
        ..IngestOutcome::default()
    }));
    let report = send(&door, &plan(&door, Protocol::Grpc, 300)).await;
    assert_eq!(report.spans_rejected, 10 * report.requests);
    assert_eq!(report.spans_failed, 0);
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named_long_before_requests_are_given_up() {
    let door = open("").await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plan = Plan {
        endpoint: nobody.local_addr().unwrap(),
        retry_for: Duration::from_secs(3600),
        ..plan(&door, Protocol::Grpc, 300)
    };
    drop(nobody);
    let tally = Arc::new(Tally::default());
    let why = tokio::select! {
        report = run(&plan, Arc::new(Templates::new(1)), &tally) => panic!("given up: {report}"),
        why = tally.trouble() => why,
    };
    assert!(why.contains("refused"), "{why}");
}
