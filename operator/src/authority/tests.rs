//! Times in; Secrets out, and whether a TLS stack believes what is in them.

use std::sync::Arc;

use crds::TracingCluster;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;
use crate::validate::{Environment, Lookups, validate};

const START: &str = "2026-11-22T00:00:00Z";
const HOST: &str = "main-node-0.main-peers.tracing.svc";

fn cluster(annotations: &str) -> Cluster {
    let text = format!(
        "{{apiVersion: x, kind: y, metadata: {{name: main, namespace: tracing, annotations: {{{annotations}}}}}, spec: {{tls: \
         {{caDuration: 100d, duration: 30d, renewBefore: 10d}}, storage: {{type: S3, s3: {{bucket: traces}}, credentials: {{mode: \
         NodeIdentity}}}}}}}}"
    );
    let resource: TracingCluster = serde_saphyr::from_str(&text).unwrap();
    let environment = Environment {
        version: "0.1.0".to_owned(),
        node_image: "vivace:0.1.0".to_owned(),
        namespace: "operators".to_owned(),
    };
    validate(&resource, &Lookups::default(), &environment).unwrap()
}

fn at(days: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(24 * days)
}

/// Whether somebody who believes a PEM bundle believes a node that shows a certificate.
fn believes(bundle: &str, shown: &str, name: &str, now: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let leaf = CertificateDer::from_pem_slice(shown.as_bytes()).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(seconds(now));
    verifier.verify_server_cert(&leaf, &[], &name, &[], now).is_ok()
}

fn part(secret: &Secret, key: &str) -> String {
    text(secret, key).unwrap_or_else(|| panic!("no {key}"))
}

#[test]
fn nodes_are_believed_under_their_names_and_for_their_time() {
    let cluster = cluster("");
    let ca = new_ca(&cluster, None, at(0)).unwrap();
    let leaf = new_leaf(&cluster, &ca, at(0)).unwrap();
    let shown = part(&leaf, "tls.crt");
    for (name, now, wanted) in [
        (HOST, at(0), true),
        // Clocks differ by minutes.
        (HOST, at(0) - jiff::SignedDuration::from_mins(4), true),
        (HOST, at(0) - jiff::SignedDuration::from_mins(6), false),
        (HOST, at(29), true),
        (HOST, at(31), false),
        ("main-node-0.other-peers.tracing.svc", at(0), false),
        ("main-node-0.main-peers.elsewhere.svc", at(0), false),
    ] {
        assert_eq!(
            believes(&part(&leaf, "ca.crt"), &shown, name, now),
            wanted,
            "{name} {now}"
        );
    }
    // One that is made late in its authority's life ends with it.
    let late = new_leaf(&cluster, &ca, at(90)).unwrap();
    assert_eq!(time(&late, NOT_AFTER), Some(at(100)));
    assert!(!believes(
        &part(&late, "ca.crt"),
        &part(&late, "tls.crt"),
        HOST,
        at(101)
    ));
}

#[test]
fn an_authority_is_due_when_it_is_old_or_asked_for() {
    let plain = cluster("");
    let ca = new_ca(&plain, None, at(0)).unwrap();
    let leaf = new_leaf(&plain, &ca, at(0)).unwrap();
    let is_due = |cluster: &Cluster, days: i64| state(cluster, &ca, &leaf, at(days)).is_ca_due;
    assert!(!is_due(&plain, 0) && !is_due(&plain, 79) && is_due(&plain, 81));
    let asked = cluster("tracing.vivace.dev/renew-ca: 'now'");
    assert!(is_due(&asked, 0));
    // Once it was made for that word, the word asks for nothing more.
    let renewed = new_ca(&asked, None, at(1)).unwrap();
    assert!(!state(&asked, &renewed, &leaf, at(1)).is_ca_due);
    let again = cluster("tracing.vivace.dev/renew-ca: 'again'");
    assert!(state(&again, &renewed, &leaf, at(1)).is_ca_due);
}

#[test]
fn at_every_step_of_a_change_everybody_believes_everybody() {
    let cluster = cluster("");
    let old_ca = new_ca(&cluster, None, at(0)).unwrap();
    let old_leaf = new_leaf(&cluster, &old_ca, at(0)).unwrap();
    let (old_bundle, old_shown) = (part(&old_leaf, "ca.crt"), part(&old_leaf, "tls.crt"));
    let before = state(&cluster, &old_ca, &old_leaf, at(0));
    assert!(before.is_leaf_of_current && !before.has_previous);

    // First all believe both; the certificate is still the old one's.
    let both_ca = new_ca(&cluster, text(&old_ca, "ca.crt"), at(85)).unwrap();
    let both_bundle = bundle(&both_ca);
    let between = state(&cluster, &both_ca, &old_leaf, at(85));
    assert!(between.has_previous && !between.is_leaf_of_current && !between.is_ca_due);
    let new_leaf = new_leaf(&cluster, &both_ca, at(85)).unwrap();
    let new_shown = part(&new_leaf, "tls.crt");
    assert_eq!(part(&new_leaf, "ca.crt"), both_bundle);
    let now = at(20);
    assert!(believes(&old_bundle, &old_shown, HOST, now));
    assert!(believes(&both_bundle, &old_shown, HOST, now));
    assert!(believes(&both_bundle, &new_shown, HOST, at(86)));
    // That is why the new one is shown only when all believe it.
    assert!(!believes(&old_bundle, &new_shown, HOST, at(86)));

    // At the end the old one is forgotten.
    let mut last_ca = both_ca.clone();
    last_ca.data.as_mut().unwrap().remove("previous.crt");
    let last_bundle = bundle(&last_ca);
    assert!(believes(&last_bundle, &new_shown, HOST, at(86)));
    assert!(!believes(&last_bundle, &old_shown, HOST, now));
    let after = state(&cluster, &last_ca, &new_leaf, at(86));
    assert!(after.is_leaf_of_current && !after.has_previous);
}

#[test]
fn a_secret_that_somebody_has_emptied_is_said() {
    let cluster = cluster("");
    for key in ["ca.crt", "ca.key"] {
        let mut ca = new_ca(&cluster, None, at(0)).unwrap();
        ca.data.as_mut().unwrap().remove(key);
        let error = new_leaf(&cluster, &ca, at(0)).unwrap_err().to_string();
        assert!(
            error.contains("main-ca") && error.contains(key) && error.contains("delete it"),
            "{error}"
        );
    }
    let mut ca = new_ca(&cluster, None, at(0)).unwrap();
    ca.metadata.annotations = None;
    assert!(new_leaf(&cluster, &ca, at(0)).is_err());
}

#[test]
fn keys_stay_where_they_are() {
    let cluster = cluster("");
    let ca = new_ca(&cluster, None, at(0)).unwrap();
    let leaf = new_leaf(&cluster, &ca, at(0)).unwrap();
    let key = part(&ca, "ca.key");
    assert!(
        leaf.data
            .unwrap()
            .values()
            .all(|bytes| !String::from_utf8_lossy(&bytes.0).contains(&key))
    );
    // Nor is it taken for one of the objects that are applied, and taken away.
    assert!(!ca.metadata.labels.unwrap().contains_key(names::MANAGED_BY));
}
