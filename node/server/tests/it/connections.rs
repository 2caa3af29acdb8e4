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
    // With the four that every request here has, 127, 128 and 129.
    for (count, status) in [(123, "200"), (124, "200"), (125, "431"), (1_000, "431")] {
        let mut stream = TcpStream::connect(door.http).await.unwrap();
        let headers: String = (0..count).map(|number| format!("x-{number}: y\r\n")).collect();
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n\
             content-length: 1\r\n{headers}\r\nx"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (answer, _) = read_to_end(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{count}: {answer}");
        assert_eq!(
            answer.ends_with("more than 128 headers, or too many bytes"),
            status == "431",
            "{answer}"
        );
    }
}

#[tokio::test]
async fn heads_of_http2_that_are_too_large_are_refused() {
    let door = open("").await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    // The last is beyond what is read at all.
    for (kib, status, text) in [
        (60, 200, "echo"),
        (70, 431, "the head of the request is too large: more than 65536 bytes"),
        (200, 431, ""),
    ] {
        let pad = "y".repeat(kib << 10);
        let request = client.get(format!("http://{}/api/echo", door.api)).header("x-pad", pad);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{kib} KiB");
        assert_eq!(answer.text().await.unwrap().trim_end(), text, "{kib} KiB");
    }
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    for (kib, code) in [(60, "0"), (70, "8")] {
        let pad = "y".repeat(kib << 10);
        let answer = crate::door::grpc_call(door.grpc, path, &[("x-pad", &pad)], framed(false, b"x")).await;
        assert_eq!(
            (answer.status, answer.code.as_str()),
            (200, code),
            "{kib} KiB: {}",
            answer.message
        );
    }
    assert_eq!(door.taken().len(), 1);
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

/// HTTP/2 by hand: clients that do not keep to the rules need no library that does.
mod h2 {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const REFUSED_STREAM: u8 = 7;
    pub(super) const ENHANCE_YOUR_CALM: u8 = 11;

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// The head of a call whose body is still to come.
    pub(super) fn call(stream: u32) -> Vec<u8> {
        let path = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        // POST, http; the rest as literals that are not to be remembered: :path, :authority, content-type.
        let mut block = vec![0x83, 0x86, 0x04, path.len() as u8];
        block.extend_from_slice(path);
        block.extend_from_slice(b"\x01\x01x");
        block.extend_from_slice(b"\x0f\x10\x10application/grpc");
        frame(HEADERS, 0x4, stream, &block)
    }

    /// Takes whole frames off the front: kind, flags, stream, payload.
    pub(super) fn take(bytes: &mut Vec<u8>) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut frames = Vec::new();
        while bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            if bytes.len() < 9 + length {
                break;
            }
            let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
            frames.push((bytes[3], bytes[4], stream, bytes[9..9 + length].to_vec()));
            bytes.drain(..9 + length);
        }
        frames
    }
}

/// An HTTP/2 connection, and the first setting number 3 (most streams at once) that the peer sent.
async fn greeted(address: std::net::SocketAddr) -> (TcpStream, Option<u32>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(h2::PREFACE).await.unwrap();
    stream.write_all(&h2::frame(h2::SETTINGS, 0, 0, &[])).await.unwrap();
    let settings = until_frame(&mut stream, |kind, flags, _, _| kind == h2::SETTINGS && flags == 0).await;
    let settings = settings.unwrap();
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]);
    let streams = streams.map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()));
    stream.write_all(&h2::frame(h2::SETTINGS, 1, 0, &[])).await.unwrap();
    (stream, streams)
}

/// Reads frames until one is as wanted and gives its payload; `None` when the peer closed before.
async fn until_frame(stream: &mut TcpStream, mut wanted: impl FnMut(u8, u8, u32, &[u8]) -> bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        for (kind, flags, number, payload) in h2::take(&mut bytes) {
            if wanted(kind, flags, number, &payload) {
                return Some(payload);
            }
        }
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_buf(&mut bytes));
        match read.await.expect("the peer says something") {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn streams_at_the_limit_and_one_beyond_it() {
    let door = open("listen: {http2_streams_max: 3}").await;
    for address in [door.grpc, door.http] {
        let (mut stream, streams_max) = greeted(address).await;
        assert_eq!(streams_max, Some(3));
        for number in [1, 3, 5, 7] {
            stream.write_all(&h2::call(number)).await.unwrap();
        }
        let mut refused = 0;
        let reset = until_frame(&mut stream, |kind, _, number, _| {
            refused = number;
            kind == h2::RST_STREAM
        })
        .await;
        assert_eq!((refused, reset), (7, Some(vec![0, 0, 0, h2::REFUSED_STREAM])));
    }
    assert!(door.taken().is_empty());
}

#[tokio::test]
async fn as_many_streams_as_are_allowed_by_default() {
    let door = open("").await;
    for (streams, refused) in [(127, 0), (128, 0), (129, 1)] {
        let (mut stream, streams_max) = greeted(door.grpc).await;
        assert_eq!(streams_max, Some(128));
        for number in 0..streams {
            stream.write_all(&h2::call(2 * number + 1)).await.unwrap();
        }
        stream.write_all(&h2::frame(h2::PING, 0, 0, b"you well")).await.unwrap();
        let mut reset = Vec::new();
        until_frame(&mut stream, |kind, flags, number, _| {
            if kind == h2::RST_STREAM {
                reset.push(number);
            }
            kind == h2::PING && flags == 1
        })
        .await
        .expect("the connection lives");
        // The last one.
        assert_eq!(reset, vec![2 * 128 + 1; refused], "{streams}");
    }
}

#[tokio::test]
async fn a_flood_of_streams_that_are_reset_closes_the_connection() {
    let door = open("").await;
    for (streams, survives) in [(20, true), (20_000, false)] {
        let (mut stream, _) = greeted(door.grpc).await;
        let mut flood = Vec::new();
        for number in 0..streams {
            let number = 2 * number + 1;
            flood.extend(h2::call(number));
            flood.extend(h2::frame(h2::RST_STREAM, 0, number, &[0, 0, 0, 8]));
        }
        flood.extend(h2::frame(h2::PING, 0, 0, b"you well"));
        // The peer may close before it has read all.
        let _ = stream.write_all(&flood).await;
        let answer = until_frame(&mut stream, |kind, flags, _, _| {
            kind == h2::GOAWAY || (kind == h2::PING && flags == 1)
        });
        let answer = answer.await;
        if survives {
            assert_eq!(answer.as_deref(), Some(&b"you well"[..]));
        } else if let Some(goaway) = answer {
            // A reset of the connection may overtake it.
            assert_eq!(goaway[4..8], [0, 0, 0, h2::ENHANCE_YOUR_CALM]);
        }
    }
    until("the flood is over", || door.limits.open() <= 1).await;
    assert_eq!(door.receiver.in_flight_bytes(), 0);
    assert_eq!(door.call(&[], framed(false, b"x")).await.code, "0");
}
