//! The admin port: connections, paths, codes.
//!
//! With `cluster.tls` a caller shows a certificate that one of the cluster's authorities signed; without it the port is for
//! loopback addresses alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Admin, AdminCommand, No};
use crate::peer::tls::PeerTls;

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What is said of a command that is not understood, and of one in the log, which may repeat what was sent.
const SAID_CHARS_MAX: usize = 400;

/// Serves until stopped. Requests under way then are dropped: every command may be repeated.
pub(in crate::node) async fn serve(
    admin: Arc<Admin>,
    listener: TcpListener,
    tls: Option<Arc<PeerTls>>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        let (admin, tls, stop) = (Arc::clone(&admin), tls.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(admin, socket, tls) => {}
            }
            drop(slot);
        });
    }
}

async fn connection(admin: Arc<Admin>, socket: TcpStream, tls: Option<Arc<PeerTls>>) {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(answer(&admin, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // What ends a connection is the caller's affair.
    match tls {
        None => drop(http.serve_connection(TokioIo::new(socket), service).await),
        Some(tls) => match tokio::time::timeout(HEADER_TIMEOUT, tls.accept_admin(socket)).await {
            Ok(Ok(stream)) => drop(http.serve_connection(TokioIo::new(stream), service).await),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an admin connection was turned away"
                );
            }
            Err(_) => {}
        },
    }
}

async fn answer(admin: &Admin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match (head.uri.path(), &head.method) {
        ("/admin/v1/status", &Method::GET) => say(StatusCode::OK, &admin.status().await),
        ("/admin/v1/command", &Method::POST) => {
            let body = match crate::api::read_posted(body).await {
                Ok(body) => body,
                Err(refusal) => return no(refusal.kind.http_status(), refusal.message.into_owned()),
            };
            match serde_json::from_slice::<AdminCommand>(&body) {
                Ok(command) => outcome(admin, command).await,
                Err(error) => no(StatusCode::BAD_REQUEST, clipped(&error.to_string())),
            }
        }
        ("/admin/v1/status" | "/admin/v1/command", _) => {
            no(StatusCode::METHOD_NOT_ALLOWED, "status is GET, command is POST")
        }
        _ => no(StatusCode::NOT_FOUND, "no such path"),
    }
}

async fn outcome(admin: &Admin, command: AdminCommand) -> Response<Full<Bytes>> {
    let said = clipped(&format!("{command:?}"));
    let outcome = admin.tell(command).await;
    match &outcome {
        Ok(()) => tracing::info!(command = said, "an admin command was carried out"),
        Err(no) => tracing::warn!(command = said, ?no, "an admin command was not carried out"),
    }
    match outcome {
        Ok(()) => say(StatusCode::OK, &json!({})),
        Err(No::Refused(message)) => no(StatusCode::CONFLICT, message),
        Err(No::Unknown(message)) => no(StatusCode::SERVICE_UNAVAILABLE, message),
        Err(No::Elsewhere(leader)) => {
            let leader = leader.map(|leader| format!(", which is node {}", leader.0));
            let message = format!("only the leader of the ring can do this{}", leader.unwrap_or_default());
            no(StatusCode::MISDIRECTED_REQUEST, message)
        }
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(SAID_CHARS_MAX).collect()
}

/// Why not, for people.
fn no(code: StatusCode, why: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(why.into()));
    *response.status_mut() = code;
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    response
}

fn say(code: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = code;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}
