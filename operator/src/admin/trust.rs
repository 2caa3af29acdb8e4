//! Whom the operator believes when it speaks with nodes, and as whom it speaks: the nodes' own Secret.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

/// The CA of the nodes' certificates, and a certificate that nodes believe.
#[derive(Clone, PartialEq, Eq)]
pub struct Trust {
    /// PEM; several while the CA changes.
    ca: Vec<u8>,
    /// PEM: certificate, then key. None where the Secret has none.
    identity: Option<Vec<u8>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Trust")
            .field("has_identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// What a Secret of nodes' certificates says; `None` without a CA.
    pub fn of(secret: &Secret) -> Option<Self> {
        let data: &BTreeMap<String, ByteString> = secret.data.as_ref()?;
        let part = |key: &str| {
            data.get(key)
                .map(|bytes| bytes.0.clone())
                .filter(|bytes| !bytes.is_empty())
        };
        let identity = part("tls.crt").zip(part("tls.key")).map(|(mut chain, key)| {
            if !chain.ends_with(b"\n") {
                chain.push(b'\n');
            }
            chain.extend(key);
            chain
        });
        Some(Self {
            ca: part("ca.crt")?,
            identity,
        })
    }

    /// A client that believes this CA and no other.
    pub fn client(&self, builder: reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
        let builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&self.ca)?);
        match &self.identity {
            Some(pem) => builder.identity(reqwest::Identity::from_pem(pem)?).build(),
            None => builder.build(),
        }
    }
}
