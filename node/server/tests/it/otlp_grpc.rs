//! OTLP over gRPC: what is taken, what is refused and how.

use std::time::Duration;

use bytes::Bytes;
use server::ingest::IngestOutcome;
use server::refusal::{Kind, Refusal};

use crate::door::{compressed, framed, grpc_call, noise, open};

#[tokio::test]
async fn every_encoding_arrives_as_the_same_bytes() {
    let door = open("").await;
    let data = noise(5000);
    assert_eq!(door.call(&[], framed(false, &data)).await.code, "0");
    for encoding in ["gzip", "zstd", "snappy", "x-snappy-framed", "deflate"] {
        let answer = door
            .call(
                &[("grpc-encoding", encoding)],
                framed(true, &compressed(encoding, &data)),
            )
            .await;
        assert_eq!((answer.code.as_str(), answer.body.len()), ("0", 0), "{encoding}");
    }
    // A client may declare an encoding and still send a message as it is.
    assert_eq!(
        door.call(&[("grpc-encoding", "gzip")], framed(false, &data)).await.code,
        "0"
    );
    assert_eq!(door.taken().len(), 7);
    assert!(door.taken().iter().all(|(_, body)| *body == data));
}

#[tokio::test]
async fn an_empty_request_is_a_success_without_effect() {
    let door = open("").await;
    assert_eq!(door.call(&[], framed(false, b"")).await.code, "0");
    assert!(door.taken().is_empty());
}

#[tokio::test]
async fn partial_success_is_told() {
    let door = open("").await;
    door.answer(Ok(IngestOutcome {
        accepted_spans: 5,
        rejected_spans: 2,
        message: "span id is zero".into(),
        ..IngestOutcome::default()
    }));
    let answer = door.call(&[], framed(false, b"x")).await;
    assert_eq!(answer.code, "0");
    assert_eq!(
        answer.body,
        [&[0x0a, 19, 0x08, 2, 0x12, 15][..], b"span id is zero"].concat()
    );
}

#[tokio::test]
async fn what_is_not_a_call_is_refused() {
    let door = open("").await;
    for (headers, body, code) in [
        (&[][..], Bytes::new(), "3"),
        (&[][..], Bytes::from_static(&[0, 0, 0, 0]), "3"),
        (&[][..], Bytes::from_static(&[0, 0, 0, 0, 9, 1]), "3"),
        (&[][..], Bytes::from_static(&[7, 0, 0, 0, 0]), "3"),
        (&[][..], [framed(false, b"a"), framed(false, b"b")].concat().into(), "3"),
        (&[("grpc-encoding", "br")][..], framed(true, b"a"), "12"),
        // Flagged as compressed, by nothing: INTERNAL, as gRPC wants it.
        (&[][..], framed(true, b"a"), "13"),
        (&[("grpc-encoding", "identity")][..], framed(true, b"a"), "13"),
        (&[("grpc-encoding", "gzip")][..], framed(true, b"not gzip"), "3"),
        (&[("content-type", "application/json")][..], framed(false, b"a"), "12"),
        (
            &[("content-type", "application/grpc+json")][..],
            framed(false, b"a"),
            "12",
        ),
    ] {
        let answer = door.call(headers, body).await;
        assert_eq!(answer.code, code, "{headers:?} {answer:?}");
        assert!(!answer.message.is_empty());
        let is_call = !headers.iter().any(|(name, _)| *name == "content-type");
        assert_eq!(answer.status, if is_call { 200 } else { 415 }, "{headers:?}");
    }
    let answer = door.call(&[("grpc-encoding", "br")], framed(true, b"a")).await;
    assert_eq!(
        answer.headers["grpc-accept-encoding"],
        "identity,gzip,zstd,deflate,snappy"
    );
    let other = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    assert_eq!(grpc_call(door.grpc, other, &[], framed(false, b"")).await.code, "12");
    assert!(door.taken().is_empty());
    assert_eq!(door.receiver.in_flight_bytes(), 0);
}

#[tokio::test]
async fn sizes_at_the_limit_and_one_beside_it() {
    let door = open("listen: {request_wire_bytes_max: 32KiB, request_bytes_max: 64KiB}").await;
    for (length, code) in [(32_762, "0"), (32_763, "0"), (32_764, "8")] {
        let answer = door.call(&[], framed(false, &noise(length))).await;
        assert_eq!(answer.code, code, "{length}");
        assert!(
            !answer.headers.contains_key("grpc-status-details-bin"),
            "the same again cannot succeed"
        );
    }
    for encoding in ["gzip", "zstd", "snappy", "deflate"] {
        for (length, code) in [(65_535, "0"), (65_536, "0"), (65_537, "8")] {
            let body = framed(true, &compressed(encoding, &vec![b'a'; length]));
            assert_eq!(
                door.call(&[("grpc-encoding", encoding)], body).await.code,
                code,
                "{encoding} {length}"
            );
        }
    }
}

#[tokio::test]
async fn the_tenant_comes_from_the_metadata() {
    let door = open("tenancy: {multitenancy_enabled: true, tenants_auto_max: 1}").await;
    for (tenant, code) in [("a", "0"), ("", "16"), ("a/b", "16"), ("b", "7"), ("a", "0")] {
        assert_eq!(
            door.call(&[("x-scope-orgid", tenant)], framed(false, b"x")).await.code,
            code,
            "{tenant}"
        );
    }
    let answer = door.call(&[], framed(false, b"x")).await;
    assert_eq!((answer.code.as_str(), answer.message.as_str()), ("16", "no org id"));
    assert_eq!(door.taken().len(), 2);
}

#[tokio::test]
async fn throttling_carries_retry_info() {
    let door = open("").await;
    door.answer(Err(Refusal::throttled("slow down, 100% full", Duration::from_secs(5))));
    let answer = door.call(&[], framed(false, b"x")).await;
    assert_eq!(
        (answer.code.as_str(), answer.message.as_str()),
        ("8", "slow down, 100%25 full")
    );
    // google.rpc.Status {8, text, [Any {RetryInfo {5 s}}]}, encoded by another program.
    assert_eq!(
        answer.headers["grpc-status-details-bin"],
        "CAgSFHNsb3cgZG93biwgMTAwJSBmdWxsGjAKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8SBAoCCAU"
    );
}

#[tokio::test]
async fn what_the_store_says_reaches_the_client() {
    let door = open("").await;
    for (kind, code) in [
        (Kind::Rejected, "3"),
        (Kind::Unavailable, "14"),
        (Kind::TimedOut, "4"),
        (Kind::Forbidden, "7"),
        (Kind::Internal, "13"),
    ] {
        door.answer(Err(Refusal::new(kind, "why")));
        assert_eq!(door.call(&[], framed(false, b"x")).await.code, code);
    }
}
