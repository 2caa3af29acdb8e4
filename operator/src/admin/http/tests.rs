//! Nodes that answer in every way they may, over plain HTTP and over TLS, and what the operator makes of it.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{get, post};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::admin::standalone::client;
use crate::admin::{RaftId, standalone_like};

const HOST: &str = "main-a-0.main-peers.tracing.svc";

fn node() -> NodeAddress {
    NodeAddress {
        pod: "main-a-0".to_owned(),
        // No resolver is asked: the pod's own address is what counts.
        host: HOST.to_owned(),
        ip: "127.0.0.1".to_owned(),
    }
}

fn plain(port: u16) -> HttpAdmin {
    HttpAdmin::new(client(TIMEOUT).unwrap(), None).at(port)
}

async fn serve(app: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(axum::serve(listener, app).into_future());
    port
}

fn status() -> String {
    let mut status = standalone_like(Default::default());
    status.version = "0.1.0".to_owned();
    serde_json::to_string(&status).unwrap()
}

async fn asked(code: StatusCode, body: String) -> Result<NodeStatus, AdminError> {
    let app = Router::new().route("/admin/v1/status", get(async move || (code, body)));
    plain(serve(app).await).status(&node()).await
}

#[tokio::test]
async fn a_status_is_read_and_nonsense_is_no_answer() {
    assert_eq!(asked(StatusCode::OK, status()).await.unwrap().version, "0.1.0");
    // A node of another version may say more than we know.
    let more = status().replacen('{', "{\"somethingNew\": [1, 2], ", 1);
    assert_eq!(asked(StatusCode::OK, more).await.unwrap().version, "0.1.0");
    for (code, body) in [
        (StatusCode::OK, "{}".to_owned()),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::SERVICE_UNAVAILABLE, status()),
        (StatusCode::NOT_FOUND, String::new()),
    ] {
        let error = asked(code, body).await.unwrap_err();
        assert!(matches!(error, AdminError::Unreachable { .. }), "{code}: {error}");
    }
}

/// As a node of several writes it. What it leaves out is not known, and nothing is concluded from it.
#[tokio::test]
async fn a_nodes_own_words_are_understood() {
    let said = r#"{
        "version": "0.1.0", "incarnation": "00000000000004d2", "clusterId": "000000000000000000000000000000ab", "raftId": 1234,
        "ready": true, "drain": "RestartReady", "formats": 1,
        "storage": {"state": "Usable"},
        "view": {
            "term": 3, "commitIndex": 70, "lastIndex": 71, "leader": 1234, "hasQuorum": true, "format": 1,
            "members": [
                {"raftId": 1234, "incarnation": "00000000000004d2", "pod": "main-a-0", "zone": "a", "role": "Voter",
                 "state": "Active", "reachable": true, "lag": 0, "shards": 8, "shardsBehind": 0, "walBytes": 4096, "uploads": 0},
                {"raftId": 18446744073709551615, "incarnation": "ffffffffffffffff", "pod": "main-b-0", "zone": null,
                 "role": "Learner", "state": "Joining", "reachable": false, "lag": 71, "shards": 0, "shardsBehind": 0,
                 "walBytes": 0, "uploads": 0}
            ],
            "shards": {"epoch": 4, "total": 16, "healthy": 15, "underReplicated": 1, "unavailable": 0, "moving": 0,
                "worst": [{"id": 3, "live": 2, "want": 3, "owners": ["main-a-0"]}]}
        }
    }"#;
    let status = asked(StatusCode::OK, said.to_owned()).await.unwrap();
    assert_eq!(
        (status.raft_id, status.limits, status.trust),
        (Some(RaftId(1234)), None, None)
    );
    let view = status.view.unwrap();
    assert_eq!(
        view.members.iter().map(|member| member.raft_id.0).collect::<Vec<_>>(),
        [1234, u64::MAX]
    );
    assert_eq!((view.shards.total, view.shards.worst[0].want), (16, 3));
    let failed = said.replace(
        r#"{"state": "Usable"}"#,
        r#"{"state": "Unusable", "problem": "Unreachable", "message": "away"}"#,
    );
    let status = asked(StatusCode::OK, failed).await.unwrap();
    assert!(matches!(status.storage, crate::admin::StorageView::Unusable { .. }));
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_bound() {
    let padded = |length: usize| format!("{}{}", status(), " ".repeat(length - status().len()));
    assert!(asked(StatusCode::OK, padded(ANSWER_MAX - 1)).await.is_ok());
    assert!(asked(StatusCode::OK, padded(ANSWER_MAX)).await.is_ok());
    let error = asked(StatusCode::OK, padded(ANSWER_MAX + 1)).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_says_why_and_silence_is_told_from_it() {
    let app = Router::new().route(
        "/admin/v1/command",
        post(async |body: Bytes| {
            let command: Command = serde_json::from_slice(&body).unwrap();
            match command {
                Command::Undrain { .. } => (StatusCode::OK, ""),
                _ => (StatusCode::CONFLICT, "drain it first"),
            }
        }),
    );
    let admin = plain(serve(app).await);
    let member = RaftId(7);
    admin.tell(&node(), &Command::Undrain { member }).await.unwrap();
    match admin.tell(&node(), &Command::Remove { member, lost: false }).await {
        Err(AdminError::Refused { pod, message }) => {
            assert_eq!((pod.as_str(), message.as_str()), ("main-a-0", "drain it first"));
        }
        other => panic!("{other:?}"),
    }
    // A port that nobody listens on.
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = plain(closed).status(&node()).await.unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
    let nowhere = NodeAddress {
        ip: "not an address".to_owned(),
        ..node()
    };
    assert!(plain(1).status(&nowhere).await.is_err());
}

#[tokio::test]
async fn a_node_that_hangs_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = plain(listener.local_addr().unwrap().port());
    let began = std::time::Instant::now();
    // It is connected to and never accepted.
    let error = admin.status(&node()).await.unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
    assert!(began.elapsed() < TIMEOUT * 3, "{:?}", began.elapsed());
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key for a name, as PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn trust(&self, identity: Option<(String, String)>) -> Trust {
        use k8s_openapi::ByteString;
        let mut data = vec![("ca.crt", self.0.pem())];
        if let Some((certificate, key)) = identity {
            data.extend([("tls.crt", certificate), ("tls.key", key)]);
        }
        let data = data
            .into_iter()
            .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        Trust::of(&k8s_openapi::api::core::v1::Secret {
            data: Some(data.collect()),
            ..Default::default()
        })
        .unwrap()
    }
}

/// A node that shows a certificate for a name, and believes only what `believes` has signed.
async fn serve_tls(shows: (String, String), believes: &Authority) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(believes.0.pem().as_bytes()).unwrap())
        .unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(shows.0.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(shows.1.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(socket).await else {
                continue;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = status();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

async fn over_tls(trust: Trust, port: u16) -> Result<NodeStatus, AdminError> {
    HttpAdmin::new(client(TIMEOUT).unwrap(), Some(trust))
        .at(port)
        .status(&node())
        .await
}

#[tokio::test]
async fn certificates_are_believed_both_ways_by_the_clusters_own_authority_only() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let port = serve_tls(ours.sign(HOST), &ours).await;
    let me = || Some(ours.sign("main"));
    assert_eq!(over_tls(ours.trust(me()), port).await.unwrap().version, "0.1.0");
    // Another authority, no certificate of ours, one that somebody else has signed.
    for trust in [
        stranger.trust(me()),
        ours.trust(None),
        ours.trust(Some(stranger.sign("main"))),
    ] {
        let error = over_tls(trust, port).await.unwrap_err();
        assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
    }
    // A node under another node's name.
    let port = serve_tls(ours.sign("main-b-0.main-peers.tracing.svc"), &ours).await;
    assert!(over_tls(ours.trust(me()), port).await.is_err());
}
