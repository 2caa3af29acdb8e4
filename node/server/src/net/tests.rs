//! One connection over a pipe, in time that stands still unless everybody waits.

use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};

use super::*;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that answers everything with `ok`.
fn connected(protocol: Protocol) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 16);
    let limits = ConnectionLimits::new(
        &ListenSettings::default(),
        crate::metrics::Metrics::new().refused_connections.clone(),
    );
    assert_eq!(limits.header_timeout, HEADER_TIMEOUT);
    let service = |_: Request<Incoming>| async { Response::new(Full::new(Bytes::from_static(b"ok"))) };
    let http = builder(protocol, &limits);
    tokio::spawn(connection(
        http,
        server,
        HEADER_TIMEOUT,
        service,
        CancellationToken::new(),
    ));
    client
}

/// Reads until what has come ends with `end`.
async fn read_until(client: &mut DuplexStream, end: &[u8]) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        assert_ne!(
            client.read_buf(&mut bytes).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

/// Sends a byte of `bytes` each `every`, and then nothing more; seconds until the peer closes.
async fn dribble(client: DuplexStream, bytes: &[u8], every: Duration) -> u64 {
    let begun = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(client);
    let sending = async {
        for byte in bytes {
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(every).await;
        }
        std::future::pending::<()>().await
    };
    let mut rest = Vec::new();
    tokio::select! {
        _ = reading.read_to_end(&mut rest) => {}
        () = sending => {}
    }
    begun.elapsed().as_secs()
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn every_head_of_http1_has_ten_seconds_from_its_first_byte() {
    let half = &REQUEST[..REQUEST.len() - 2];
    let mut client = connected(Protocol::Http1And2);
    client.write_all(REQUEST).await.unwrap();
    read_until(&mut client, b"ok").await;
    // Idle for longer than a head may take, then a head within its time.
    sleep(Duration::from_secs(60)).await;
    client.write_all(half).await.unwrap();
    sleep(Duration::from_secs(9)).await;
    client.write_all(b"\r\n").await.unwrap();
    read_until(&mut client, b"ok").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(dribble(client, half, Duration::from_secs(1)).await, 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_of_http1_is_closed_after_a_while() {
    let mut client = connected(Protocol::Http1And2);
    client.write_all(REQUEST).await.unwrap();
    read_until(&mut client, b"ok").await;
    assert_eq!(dribble(client, b"", Duration::ZERO).await, IDLE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_head_of_http2_that_does_not_end_closes_the_connection() {
    // A request that is served, then one whose head goes on in frames that come one by one.
    let get = [0x82, 0x86, 0x84, 0x01, 0x01, b'x'];
    let served = [&[0, 0, 6, 1, 5, 0, 0, 0, 1][..], &get].concat();
    let begun = [&[0, 0, 6, 1, 1, 0, 0, 0, 3][..], &get].concat();
    for protocol in [Protocol::Http2, Protocol::Http1And2] {
        let mut client = connected(protocol);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        client.write_all(&served).await.unwrap();
        read_until(&mut client, b"ok").await;
        sleep(Duration::from_secs(20)).await;
        client.write_all(&begun).await.unwrap();
        let continuation = [0, 0, 0, 9, 0, 0, 0, 0, 3].repeat(4);
        assert_eq!(dribble(client, &continuation, Duration::from_secs(1)).await, 10);
    }
}
