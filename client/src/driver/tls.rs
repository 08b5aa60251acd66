//! TLS 1.3 to the nodes: whom this client trusts, who it is, and why the last handshake failed.

use core::fmt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why [`Tls`] cannot be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsError {
    /// The PEM text of what is named holds none of it, or is damaged.
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It is no name of a host, and no address.
    Name(String),
    /// The certificate and the key do not belong together, or are of a kind that is not supported.
    Unusable(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { what, why } => write!(f, "no {what} can be read from this PEM text: {why}"),
            Self::Name(name) => write!(f, "{name:?} is neither a host's name nor an address"),
            Self::Unusable(why) => write!(f, "certificate and key cannot be used: {why}"),
        }
    }
}

impl core::error::Error for TlsError {}

fn unusable(error: impl fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let why = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "it holds no certificate".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(TlsError::Pem { what, why })
}

/// How a client speaks TLS 1.3 to every node. All clones are the same.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    last_failure: Arc<Mutex<Option<String>>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the nodes that one of the CA certificates in `ca` (PEM text) has signed. `identity` is this client's own
    /// certificate chain and its private key (PEM text: PKCS #8, PKCS #1 or SEC 1), for nodes that let in only whom they
    /// know.
    ///
    /// # Errors
    /// [`TlsError`]: what cannot be read or used.
    pub fn new(ca: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("CA certificate", ca)? {
            roots.add(certificate).map_err(unusable)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates("certificate", chain)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem {
                    what: "private key",
                    why: error.to_string(),
                })?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(unusable)?
            }
        };
        // Nodes give no tickets: connections are few and long.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            name: None,
            last_failure: Arc::default(),
        })
    }

    /// Asks every node for this name. Otherwise a node's certificate must name the IP address that it is connected by.
    ///
    /// # Errors
    /// [`TlsError::Name`].
    pub fn server_name(mut self, name: &str) -> Result<Self, TlsError> {
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        self.name = Some(name);
        Ok(self)
    }

    /// Why the last handshake that failed did: the certificate is not trusted, expired, of another name, or the node did
    /// not let this client in.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why a connection failed. True: it was for TLS.
    pub(super) fn note(&self, error: &io::Error) -> bool {
        let inner = error.get_ref();
        let why = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(why) = why {
            *self.lock() = Some(why.to_string());
        }
        why.is_some()
    }

    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = self.name.clone();
        let name = name.unwrap_or_else(|| ServerName::IpAddress(address.ip().into()));
        TlsConnector::from(Arc::clone(&self.config))
            .connect(name, stream)
            .await
    }
}
