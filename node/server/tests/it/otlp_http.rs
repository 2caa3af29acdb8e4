//! OTLP over HTTP: what is taken, what is refused and how.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};
use server::ingest::IngestOutcome;
use server::refusal::{Kind, Refusal};

use crate::door::{RpcStatus, compressed, noise, open};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn every_encoding_arrives_as_the_same_bytes() {
    let door = open("").await;
    let data = noise(5000);
    for encoding in ["gzip", "zstd", "snappy", "x-snappy-framed", "deflate", "lz4"] {
        let answer = door
            .post(&[PROTOBUF, ("content-encoding", encoding)], compressed(encoding, &data))
            .await;
        assert_eq!(answer.status(), 200, "{encoding}");
        assert_eq!(answer.headers()["content-type"], "application/x-protobuf");
        assert_eq!(
            answer.bytes().await.unwrap(),
            "",
            "{encoding}: an empty message is no bytes"
        );
        assert_eq!(door.taken().last().unwrap().1, data, "{encoding}");
    }
    assert_eq!(door.post(&[PROTOBUF], data.clone()).await.status(), 200);
    assert_eq!(
        door.post(&[PROTOBUF, ("content-encoding", "identity")], data.clone())
            .await
            .status(),
        200
    );
    assert_eq!(door.taken().len(), 8);
    assert!(
        door.taken()
            .iter()
            .all(|(tenant, body)| tenant == "single-tenant" && *body == data)
    );
}

#[tokio::test]
async fn an_empty_request_is_a_success_without_effect() {
    let door = open("").await;
    assert_eq!(door.post(&[PROTOBUF], "").await.status(), 200);
    assert_eq!(door.post(&[JSON], "{}").await.status(), 200);
    assert_eq!(
        door.post(&[PROTOBUF, ("content-encoding", "gzip")], compressed("gzip", b""))
            .await
            .status(),
        200
    );
    assert!(door.taken().is_empty());
}

#[tokio::test]
async fn partial_success_is_told_in_the_encoding_of_the_request() {
    let door = open("").await;
    door.answer(Ok(IngestOutcome {
        accepted_spans: 5,
        rejected_spans: 2,
        message: "span id is zero".into(),
        reasons: vec![("invalid_span_id", 2)],
        cut: vec![("values", 3)],
    }));
    let answer = door.post(&[PROTOBUF], "x").await;
    assert_eq!(answer.status(), 200);
    let expected = [&[0x0a, 19, 0x08, 2, 0x12, 15][..], b"span id is zero"].concat();
    assert_eq!(answer.bytes().await.unwrap(), expected);
    let answer = door.post(&[JSON], r#"{"resourceSpans":[{"schemaUrl":"u"}]}"#).await;
    assert_eq!(
        answer.json::<Value>().await.unwrap(),
        json!({"partialSuccess": {"rejectedSpans": "2", "errorMessage": "span id is zero"}})
    );
    let metrics = door.metrics.encode();
    let labels = r#"{transport="otlp_http",tenant="single-tenant"}"#;
    assert!(
        metrics.contains(&format!("vivace_receiver_accepted_spans_total{labels} 10")),
        "{metrics}"
    );
    for line in [
        r#"vivace_discarded_spans_total{reason="invalid_span_id",tenant="single-tenant"} 4"#,
        r#"vivace_receiver_cut_total{reason="values",tenant="single-tenant"} 6"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn what_is_not_otlp_is_refused_by_name() {
    let door = open("").await;
    for (headers, status) in [
        (&[][..], 415),
        (&[("content-type", "text/plain")][..], 415),
        (&[PROTOBUF, ("content-encoding", "br")][..], 415),
        (&[PROTOBUF, ("content-encoding", "gzip, gzip")][..], 415),
        (
            &[PROTOBUF, ("content-encoding", "gzip"), ("content-encoding", "gzip")][..],
            415,
        ),
        (&[PROTOBUF, ("content-encoding", "gzip")][..], 400),
        (&[PROTOBUF, ("content-encoding", "zstd")][..], 400),
        (&[PROTOBUF, ("content-encoding", "snappy")][..], 400),
        (&[PROTOBUF, ("content-encoding", "lz4")][..], 400),
    ] {
        let answer = door.post(headers, "not compressed").await;
        assert_eq!(answer.status(), status, "{headers:?}");
    }
    let client = reqwest::Client::new();
    let elsewhere = client
        .post(format!("http://{}/v1/metrics", door.http))
        .send()
        .await
        .unwrap();
    assert_eq!(elsewhere.status(), 404);
    let get = client
        .get(format!("http://{}/v1/traces", door.http))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (get.status().as_u16(), get.headers()["allow"].as_bytes()),
        (405, &b"POST"[..])
    );
    assert!(door.taken().is_empty());
}

#[tokio::test]
async fn bytes_after_the_compressed_stream_are_refused() {
    let door = open("").await;
    for encoding in ["gzip", "deflate", "zstd", "lz4"] {
        let mut body = compressed(encoding, b"abc");
        body.extend_from_slice(b"garbage");
        assert_eq!(
            door.post(&[PROTOBUF, ("content-encoding", encoding)], body)
                .await
                .status(),
            400,
            "{encoding}"
        );
    }
}

#[tokio::test]
async fn sizes_as_sent_at_the_limit_and_one_beside_it() {
    let door = open("listen: {request_wire_bytes_max: 64KiB, request_bytes_max: 64KiB}").await;
    for (length, status) in [(65_535, 200), (65_536, 200), (65_537, 413)] {
        let answer = door.post(&[PROTOBUF], noise(length)).await;
        assert_eq!(answer.status(), status, "{length}");
        if status == 413 {
            let status = RpcStatus::decode(answer.bytes().await.unwrap()).unwrap();
            assert_eq!(
                (status.code, status.details.len()),
                (8, 0),
                "no retry info: the same again cannot succeed"
            );
        }
    }
    // The same without a declared length.
    for (length, status) in [(65_536, 200), (65_537, 413)] {
        let chunks = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(noise(length)))]);
        let body = reqwest::Body::wrap_stream(chunks);
        assert_eq!(door.post(&[PROTOBUF], body).await.status(), status, "chunked {length}");
    }
}

#[tokio::test]
async fn decompressed_sizes_at_the_limit_and_one_beside_it() {
    let door = open("listen: {request_wire_bytes_max: 32KiB, request_bytes_max: 64KiB}").await;
    for encoding in ["gzip", "zstd", "snappy", "x-snappy-framed", "deflate", "lz4"] {
        for (length, status) in [(65_535, 200), (65_536, 200), (65_537, 413)] {
            let body = compressed(encoding, &vec![b'a'; length]);
            let answer = door.post(&[PROTOBUF, ("content-encoding", encoding)], body).await;
            assert_eq!(answer.status(), status, "{encoding} {length}");
        }
    }
}

#[tokio::test]
async fn a_bomb_is_413_and_costs_no_memory() {
    let door = open("").await;
    for encoding in ["gzip", "zstd", "deflate"] {
        let body = compressed(encoding, &vec![0; 60 << 20]);
        assert!(body.len() < 1 << 20);
        let answer = door.post(&[PROTOBUF, ("content-encoding", encoding)], body).await;
        assert_eq!(answer.status(), 413, "{encoding}");
    }
    assert_eq!(door.receiver.in_flight_bytes(), 0);
}

#[tokio::test]
async fn the_in_flight_budget_counts_decompressed_bytes() {
    let door = open("memory: {in_flight: 1MiB, in_flight_per_shard: 1MiB}").await;
    for (length, status) in [((1 << 20) - 1, 200), (1 << 20, 200), ((1 << 20) + 1, 429)] {
        assert_eq!(
            door.post(&[PROTOBUF], noise(length)).await.status(),
            status,
            "{length} as sent"
        );
        let data = [noise(500_000), vec![b'a'; length - 500_000]].concat();
        let answer = door
            .post(&[PROTOBUF, ("content-encoding", "zstd")], compressed("zstd", &data))
            .await;
        assert_eq!(answer.status(), status, "{length} decompressed");
        assert_eq!(answer.headers().contains_key("retry-after"), status == 429);
    }
    assert_eq!(door.receiver.in_flight_bytes(), 0);
}

#[tokio::test]
async fn the_rate_of_a_tenant_is_429_with_the_time_to_come_back() {
    let door = open(
        "{tenancy: {multitenancy_enabled: true}, limits: {defaults: {ingest_rate: 1000B, ingest_burst: 5000B}, \
         tenants: {big: {ingest_burst: 9000B}}}}",
    )
    .await;
    let small = [PROTOBUF, ("x-scope-orgid", "small")];
    for (length, status) in [(5001, 413), (4999, 200), (1, 200), (1, 429), (2500, 429)] {
        let answer = door.post(&small, noise(length)).await;
        assert_eq!(answer.status(), status, "{length}");
        if length == 2500 {
            assert_eq!(answer.headers()["retry-after"], "3");
        }
    }
    door.clock.advance(Duration::from_millis(2500));
    assert_eq!(door.post(&small, noise(2500)).await.status(), 200);
    assert_eq!(
        door.post(&[PROTOBUF, ("x-scope-orgid", "big")], noise(9000))
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn the_tenant_comes_from_the_header() {
    let door = open("tenancy: {multitenancy_enabled: true, tenants_auto_max: 2}").await;
    let long = "x".repeat(151);
    for (header, status) in [
        (Some("team-a"), 200),
        (None, 401),
        (Some(""), 401),
        (Some("a/b"), 401),
        (Some(".."), 401),
        (Some("a|b"), 401),
        (Some(long.as_str()), 401),
        (Some(&long[..150]), 200),
        (Some("third"), 403),
        (Some("team-a"), 200),
    ] {
        let headers: Vec<_> = [PROTOBUF]
            .into_iter()
            .chain(header.map(|value| ("x-scope-orgid", value)))
            .collect();
        assert_eq!(door.post(&headers, "x").await.status(), status, "{header:?}");
    }
    let twice = [PROTOBUF, ("x-scope-orgid", "a"), ("x-scope-orgid", "a")];
    assert_eq!(door.post(&twice, "x").await.status(), 401);
    let tenants: Vec<_> = door.taken().into_iter().map(|(tenant, _)| tenant).collect();
    assert_eq!(tenants, ["team-a", &long[..150], "team-a"]);
}

#[tokio::test]
async fn what_the_store_says_reaches_the_client() {
    let door = open("").await;
    for (kind, status, code) in [
        (Kind::Rejected, 400, 3),
        (Kind::Throttled, 429, 8),
        (Kind::Unavailable, 503, 14),
        (Kind::Internal, 500, 13),
    ] {
        door.answer(Err(Refusal {
            kind,
            message: "why \u{e4}".into(),
            retry_after: Some(Duration::from_millis(1500)),
        }));
        let answer = door.post(&[PROTOBUF], "x").await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["retry-after"], "2");
        let body = RpcStatus::decode(answer.bytes().await.unwrap()).unwrap();
        assert_eq!((body.code, body.message.as_str()), (code, "why \u{e4}"));
        let answer = door.post(&[JSON], r#"{"resourceSpans":[{"schemaUrl":"u"}]}"#).await;
        assert_eq!(
            answer.json::<Value>().await.unwrap(),
            json!({"code": code, "message": "why \u{e4}", "details": [
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}]})
        );
    }
}
