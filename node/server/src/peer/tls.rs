//! Certificates between nodes: TLS 1.3, both sides show one, and it must be for the name that all peers share.
//!
//! What always holds: a certificate that no known authority signed, or that is for another name, never gets as far as the
//! first byte of [`super::hello`]; files that cannot be used leave what was loaded before in effect. Connections keep the
//! certificate they began with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use settings::PeerTlsSettings;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::Duplex;

/// Refuses to talk to anything else that happens to speak TLS here.
const ALPN: &[u8] = b"vivace-peer/1";
/// How often the files are looked at; by content, since mounted Secrets swap links.
const LOOK: Duration = Duration::from_secs(10);
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there are no certificates, or a peer's was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} holds no usable PEM")]
    Pem {
        path: String,
        source: rustls::pki_types::pem::Error,
    },
    #[error("certificates cannot be used")]
    Unusable(#[from] rustls::Error),
    #[error("no authority to verify peers with")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("{0:?} is not a DNS name")]
    Name(String),
    #[error("handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("the peer's certificate is not for {0}")]
    OtherName(String),
}

/// The certificates in effect.
pub struct PeerTls {
    settings: PeerTlsSettings,
    name: ServerName<'static>,
    loaded: ArcSwap<Loaded>,
}

struct Loaded {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// The same without [`ALPN`].
    admin: Arc<ServerConfig>,
    files: [Vec<u8>; 3],
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// By which whoever renews certificates sees what is in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileHashes {
    pub(crate) certificate: String,
    pub(crate) authorities: String,
}

impl PeerTls {
    /// Reads the files.
    pub fn load(settings: &PeerTlsSettings) -> Result<Self, TlsError> {
        let name = ServerName::try_from(settings.peer_name.clone());
        Ok(Self {
            name: name.map_err(|_| TlsError::Name(settings.peer_name.clone()))?,
            loaded: ArcSwap::from_pointee(build(settings, read(settings)?)?),
            settings: settings.clone(),
        })
    }

    /// Reads the files again; says whether there is something new in effect.
    ///
    /// Errors: nothing changed.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let files = read(&self.settings)?;
        if files == self.loaded.load().files {
            return Ok(false);
        }
        self.loaded.store(Arc::new(build(&self.settings, files)?));
        Ok(true)
    }

    /// Of the files in effect, as they are.
    pub(crate) fn hashes(&self) -> FileHashes {
        let loaded = self.loaded.load();
        let [certificate, _, authorities] = &loaded.files;
        let hash = |file: &[u8]| format!("{:016x}", twox_hash::XxHash3_64::oneshot(file));
        FileHashes {
            certificate: hash(certificate),
            authorities: hash(authorities),
        }
    }

    pub(super) async fn connect(&self, socket: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, TlsError> {
        let connector = TlsConnector::from(Arc::clone(&self.loaded.load().client));
        let stream = connector.connect(self.name.clone(), socket).await;
        Ok(Box::new(stream.map_err(TlsError::Handshake)?))
    }

    /// Accepts somebody who need not be a peer, only be known to one of the authorities.
    pub(crate) async fn accept_admin(&self, socket: impl Duplex + 'static) -> Result<Box<dyn Duplex>, TlsError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.loaded.load().admin));
        let stream = acceptor.accept(socket).await.map_err(TlsError::Handshake)?;
        Ok(Box::new(stream))
    }

    pub(super) async fn accept(&self, socket: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, TlsError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.loaded.load().server));
        let stream = acceptor.accept(socket).await.map_err(TlsError::Handshake)?;
        // The verifier checked who signed it; for a client there is no name that it would check as well.
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let is_peer = certificates.first().is_some_and(|leaf| {
            webpki::EndEntityCert::try_from(leaf)
                .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&self.name).is_ok())
        });
        if !is_peer {
            return Err(TlsError::OtherName(self.settings.peer_name.clone()));
        }
        Ok(Box::new(stream))
    }
}

/// Looks at the files until stopped.
pub(super) async fn watch(tls: Arc<PeerTls>, stop: CancellationToken) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match tls.reload() {
            Ok(false) => {}
            Ok(true) => {
                said.clear();
                tracing::info!("certificates between nodes were read again and are in effect");
            }
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "certificates between nodes cannot be used; the old ones stay"
                    );
                    said = text;
                }
            }
        }
    }
}

fn read(settings: &PeerTlsSettings) -> Result<[Vec<u8>; 3], TlsError> {
    Ok([
        read_file(&settings.certificate_file)?,
        read_file(&settings.key_file)?,
        read_file(&settings.ca_file)?,
    ])
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.display().to_string(),
        source,
    };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map_err(failed)
}

fn build(settings: &PeerTlsSettings, files: [Vec<u8>; 3]) -> Result<Loaded, TlsError> {
    let bad = |path: &Path| {
        let path = path.display().to_string();
        move |source| TlsError::Pem { path, source }
    };
    let [certificate, key, authorities] = &files;
    let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = certificates(certificate).map_err(bad(&settings.certificate_file))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(bad(&settings.key_file))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities).map_err(bad(&settings.ca_file))? {
        roots.add(authority)?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13];
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(TlsError::Verifier)?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())?;
    let admin = server.clone();
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Loaded {
        client: Arc::new(client),
        server: Arc::new(server),
        admin: Arc::new(admin),
        files,
    })
}
