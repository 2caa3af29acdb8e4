//! Connections that misbehave, and the slow way out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::door::{Door, framed, open};

/// Reads until the peer closes; what came and how long it took.
async fn read_to_end(stream: &mut TcpStream) -> (String, Duration) {
    let begun = Instant::now();
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    // A reset is a close too.
    let _ = tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the peer closes");
    (String::from_utf8_lossy(&text).into_owned(), begun.elapsed())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let door = open("listen: {header_timeout: 200ms}").await;
    for address in [door.http, door.grpc] {
        for said in [
            "",
            "P",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-slow: ",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let (_, took) = read_to_end(&mut stream).await;
            assert!(took < Duration::from_secs(5), "{said:?} took {took:?}");
        }
    }
    until("slots come back", || door.limits.open() == 0).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let door = open("listen: {body_rate_grace: 200ms}").await;
    let mut stream = TcpStream::connect(door.http).await.unwrap();
    let head =
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"ab").await.unwrap();
    let (answer, _) = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(door.receiver.in_flight_bytes(), 0);
    assert!(door.taken().is_empty());
}

#[tokio::test]
async fn a_body_cut_short_has_no_effect() {
    let door = open("").await;
    let mut stream = TcpStream::connect(door.http).await.unwrap();
    let head =
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 100\r\n\r\nab";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await;
    until("the budget comes back", || door.receiver.in_flight_bytes() == 0).await;
    assert!(door.taken().is_empty());
}

#[tokio::test]
async fn connections_at_the_limit_and_one_beyond_it() {
    let door = open("listen: {connections_max: 3}").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(door.http).await.unwrap());
    }
    held.push(TcpStream::connect(door.grpc).await.unwrap());
    until("three are open", || door.limits.open() == 3).await;
    let mut beyond = TcpStream::connect(door.http).await.unwrap();
    read_to_end(&mut beyond).await;
    assert_eq!(door.metrics.refused_connections.get(), 1);
    held.pop();
    until("one slot comes back", || door.limits.open() == 2).await;
    assert_eq!(
        door.post(&[("content-type", "application/x-protobuf")], "x")
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let door = open("").await;
    for (count, status) in [(100, "200"), (200, "431")] {
        let mut stream = TcpStream::connect(door.http).await.unwrap();
        let headers: String = (0..count).map(|number| format!("x-{number}: y\r\n")).collect();
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n\
             content-length: 1\r\n{headers}\r\nx"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (answer, _) = read_to_end(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{count}: {answer}");
    }
}

/// One request inside the store.
async fn with_one_inside(door: &Door) -> (Arc<Notify>, impl Future<Output = String> + use<>) {
    let gate = Arc::new(Notify::new());
    *door.recorder.gate.lock() = Some(gate.clone());
    let grpc = door.grpc;
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let call = tokio::spawn(async move { crate::door::grpc_call(grpc, path, &[], framed(false, b"x")).await.code });
    until("the call is inside", || !door.taken().is_empty()).await;
    (gate, async move { call.await.unwrap() })
}

#[tokio::test]
async fn stopping_lets_requests_end_and_takes_no_new_ones() {
    let door = open("").await;
    let mut idle = TcpStream::connect(door.http).await.unwrap();
    let (gate, call) = with_one_inside(&door).await;
    door.stop.cancel();
    door.tasks.close();
    read_to_end(&mut idle).await;
    until("the listener is gone", || {
        std::net::TcpStream::connect(door.http).is_err()
    })
    .await;
    gate.notify_one();
    assert_eq!(call.await, "0");
    tokio::time::timeout(Duration::from_secs(10), door.tasks.wait())
        .await
        .expect("all connections end");
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_budget_back() {
    let door = open("").await;
    let (_gate, call) = with_one_inside(&door).await;
    assert_eq!(door.receiver.in_flight_bytes(), 6);
    let task = tokio::spawn(call);
    task.abort();
    let _ = task.await;
    // The call itself still runs in its own task; its connection dies with the runtime. A client that resets does this:
    let mut sender = TcpStream::connect(door.http).await.unwrap();
    let head =
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 3\r\n\r\nabc";
    sender.write_all(head.as_bytes()).await.unwrap();
    until("the second is inside", || door.receiver.in_flight_bytes() == 9).await;
    drop(sender);
    until("its budget comes back", || door.receiver.in_flight_bytes() == 6).await;
}
