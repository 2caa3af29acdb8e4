//! The cluster's own certificates: one authority, a key and a name for each node, and a client for the admin API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

const NAME: &str = "peers.vivace.internal";

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    pub(super) fn new(folder: PathBuf) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The `cluster.tls` section of one node.
    pub(super) fn sign(&self, node: usize) -> Value {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |suffix: &str| self.folder.join(format!("node-{node}{suffix}"));
        std::fs::write(file(".pem"), certificate.pem()).unwrap();
        write_secret(&file(".key"), &key.serialize_pem());
        let identity = format!("{}{}", certificate.pem(), key.serialize_pem());
        write_secret(&self.folder.join("admin.pem"), &identity);
        json!({
            "certificate_file": file(".pem"),
            "key_file": file(".key"),
            "ca_file": self.folder.join("ca.pem"),
            "peer_name": NAME,
        })
    }

    /// What the admin API is asked with.
    pub(super) fn client(&self, at: SocketAddr) -> reqwest::Client {
        let read = |name: &str| std::fs::read(self.folder.join(name)).unwrap();
        reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .resolve("localhost", at)
            .tls_certs_only([reqwest::Certificate::from_pem(&read("ca.pem")).unwrap()])
            .identity(reqwest::Identity::from_pem(&read("admin.pem")).unwrap())
            .build()
            .unwrap()
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
