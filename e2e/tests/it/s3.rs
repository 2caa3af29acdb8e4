//! The S3 server's own behaviour where it matters: each toxic does what its name says, seen through object_store.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::aws::{AmazonS3, Checksum};
use object_store::path::Path;
use object_store::{
    BackoffConfig, CopyOptions, Error, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload,
    RetryConfig,
};
use vivace_e2e::s3::{Availability, Op, Rule, S3Options, S3Server, Toxic, build};

async fn server() -> S3Server {
    S3Server::start(S3Options::default()).await.unwrap()
}

/// A client that asks once, so that the test sees the fault and not the cure.
fn once(server: &S3Server) -> AmazonS3 {
    let retry = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    build(server.client().with_retry(retry))
}

/// A client that tries again, quickly.
fn stubborn(server: &S3Server) -> AmazonS3 {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(2),
        ..BackoffConfig::default()
    };
    build(server.client().with_retry(RetryConfig {
        max_retries: 10,
        backoff,
        ..RetryConfig::default()
    }))
}

fn payload(text: &'static str) -> PutPayload {
    PutPayload::from_static(text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_before_the_deed_leave_no_trace() {
    let server = server().await;
    let path = Path::from("x");
    for toxic in [
        Toxic::slow_down(),
        Toxic::internal(),
        Toxic::too_many(),
        Toxic::forbidden(),
        Toxic::DropRequest,
    ] {
        server.toxics().set(vec![Rule::times(&[Op::Put], 1, toxic.clone())]);
        let error = once(&server).put(&path, payload("x")).await.unwrap_err();
        assert!(server.memory().objects("traces", "").is_empty(), "{toxic:?}: {error}");
        if toxic == Toxic::forbidden() {
            assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        }
    }
    // 429, 500, 503 and a broken connection are tried again by the client.
    for toxic in [
        Toxic::slow_down(),
        Toxic::internal(),
        Toxic::too_many(),
        Toxic::DropRequest,
    ] {
        server.toxics().set(vec![Rule::times(&[Op::Put], 2, toxic.clone())]);
        stubborn(&server)
            .put(&path, payload("x"))
            .await
            .unwrap_or_else(|error| panic!("{toxic:?}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_reply_hides_a_deed() {
    let server = server().await;
    server.toxics().set(vec![Rule::times(&[Op::Put], 1, Toxic::DropReply)]);
    once(&server)
        .put_opts(&Path::from("x"), payload("mine"), PutMode::Create.into())
        .await
        .unwrap_err();
    assert_eq!(server.memory().objects("traces", "x").len(), 1, "it was stored");
    // The trap of put-if-absent: the retry meets its own first try.
    server.toxics().set(vec![Rule::times(&[Op::Put], 1, Toxic::DropReply)]);
    let retried = stubborn(&server)
        .put_opts(&Path::from("y"), payload("mine"), PutMode::Create.into())
        .await;
    assert!(!matches!(retried, Ok(_) | Err(Error::NotFound { .. })), "{retried:?}");
    assert_eq!(server.memory().objects("traces", "y").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_cut_and_bits_are_flipped() {
    let server = server().await;
    let data = Bytes::from(vec![0_u8; 200_000]);
    let client = once(&server);
    let path = Path::from("x");
    client.put(&path, PutPayload::from_bytes(data.clone())).await.unwrap();

    server.toxics().set(vec![Rule::times(
        &[Op::Get],
        1,
        Toxic::TruncateBody { keep_percent: 50 },
    )]);
    client.get(&path).await.unwrap().bytes().await.unwrap_err();

    server.toxics().set(vec![Rule::times(&[Op::Get], 1, Toxic::FlipBit)]);
    let wrong = client.get(&path).await.unwrap().bytes().await.unwrap();
    let flipped: u32 = wrong.iter().map(|byte| byte.count_ones()).sum();
    assert_eq!((wrong.len(), flipped), (200_000, 1));
    assert_eq!(
        client.get(&path).await.unwrap().bytes().await.unwrap(),
        data,
        "the object itself is well"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slowness_is_slow() {
    let server = server().await;
    let client = once(&server);
    let path = Path::from("x");
    client.put(&path, PutPayload::from(vec![7_u8; 64 << 10])).await.unwrap();
    server.toxics().set(vec![
        Rule::always(&[Op::Head], Toxic::Latency { ms: 100, jitter_ms: 20 }),
        Rule::always(&[Op::Get], Toxic::Bandwidth { bytes_per_s: 256 << 10 }),
    ]);
    let started = Instant::now();
    client.head(&path).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(100));
    let started = Instant::now();
    client.get(&path).await.unwrap().bytes().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200), "64 KiB at 256 KiB/s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_list_lags_behind() {
    let server = server().await;
    let client = once(&server);
    for key in ["a", "b", "c"] {
        client.put(&Path::from(key), payload("x")).await.unwrap();
    }
    client.delete(&Path::from("a")).await.unwrap();
    let list = async || -> Vec<String> {
        client
            .list(None)
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .unwrap()
    };
    assert_eq!(list().await, ["b", "c"]);
    server
        .toxics()
        .set(vec![Rule::always(&[Op::List], Toxic::StaleList { mutations: 2 })]);
    assert_eq!(list().await, ["a", "b"], "neither the last PUT nor the DELETE is seen");
    client.get(&Path::from("c")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_away() {
    let server = server().await;
    let client = once(&server);
    let path = Path::from("x");
    client.put(&path, payload("x")).await.unwrap();

    server.toxics().set_availability(Availability::Unavailable);
    client.get(&path).await.unwrap_err();
    server.toxics().set_availability(Availability::Refusing);
    server.reachable(false).await;
    client.get(&path).await.unwrap_err();

    server.toxics().heal();
    server.reachable(true).await;
    assert_eq!(
        client.get(&path).await.unwrap().bytes().await.unwrap(),
        "x",
        "nothing was forgotten"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_keys_are_let_in() {
    let server = server().await;
    let stranger = build(server.client().with_secret_access_key("wrong"));
    let error = stranger.put(&Path::from("x"), payload("x")).await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(server.memory().objects("traces", "").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_are_checked() {
    let server = server().await;
    let client = build(server.client().with_checksum_algorithm(Checksum::SHA256));
    client.put(&Path::from("x"), payload("right")).await.unwrap();
    // A client that signs one body and sends another, as a broken network card would.
    let crc32c_of_right = "OFKvfQ==";
    assert_eq!(put_with_crc32c(&server, "x", "right", crc32c_of_right).await, 200);
    assert_eq!(put_with_crc32c(&server, "x", "wrong", crc32c_of_right).await, 400);
    assert_eq!(server.memory().objects("traces", "x")[0].1.data, "right");
}

/// A presigned PUT with a checksum of its own.
async fn put_with_crc32c(server: &S3Server, key: &str, body: &'static str, crc32c: &str) -> u16 {
    use object_store::signer::Signer as _;
    let client = build(server.client());
    let url = client
        .signed_url(http::Method::PUT, &Path::from(key), Duration::from_secs(60))
        .await
        .unwrap();
    let put = vivace_e2e::client::http_client()
        .unwrap()
        .put(url)
        .header("x-amz-checksum-crc32c", crc32c)
        .body(body);
    put.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_parts_are_refused_as_in_s3() {
    let server = server().await;
    let client = once(&server);
    let mut upload = client.put_multipart(&Path::from("x")).await.unwrap();
    for part in [vec![1_u8; 100], vec![2; 100]] {
        upload.put_part(PutPayload::from(part)).await.unwrap();
    }
    let error = upload.complete().await.unwrap_err();
    assert!(error.to_string().contains("EntityTooSmall"), "{error}");
    assert_eq!(
        server.memory().open_uploads("traces").len(),
        1,
        "it waits to be aborted"
    );
    upload.abort().await.unwrap();
    assert!(server.memory().open_uploads("traces").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_can_be_conditional() {
    let server = server().await;
    let client = once(&server);
    client.put(&Path::from("a"), payload("a")).await.unwrap();
    client.put(&Path::from("b"), payload("b")).await.unwrap();
    let error = client
        .copy_if_not_exists(&Path::from("a"), &Path::from("b"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    client
        .copy_opts(&Path::from("a"), &Path::from("c"), CopyOptions::default())
        .await
        .unwrap();
    client
        .copy_if_not_exists(&Path::from("a"), &Path::from("d"))
        .await
        .unwrap();
    assert_eq!(server.memory().objects("traces", "d")[0].1.data, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_counted_by_operation_and_prefix() {
    let server = server().await;
    let client = once(&server);
    for key in ["blocks/1", "blocks/2", "wal/1"] {
        client.put(&Path::from(key), payload("12345")).await.unwrap();
    }
    client.get_range(&Path::from("blocks/1"), 1..3).await.unwrap();
    client.get(&Path::from("blocks/none")).await.unwrap_err();
    let puts = server.traffic().count(Op::Put, "blocks/");
    assert_eq!((puts.requests, puts.failed, puts.bytes_in), (2, 0, 10));
    let gets = server.traffic().count(Op::Get, "");
    assert_eq!((gets.requests, gets.failed), (2, 1));
    assert_eq!(server.traffic().count(Op::Get, "blocks/1").bytes_out, 2);
    let last = server.traffic().recent();
    assert_eq!(last[3].range.as_deref(), Some("bytes=1-2"));
    assert_eq!(last[4].status, Some(404));
}
