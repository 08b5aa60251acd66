//! TLS 1.3 (RFC 8446) on the ring: rustls without buffers of its own, on the primitives of aws-lc. A listener with an
//! [`Acceptor`] accepts TLS and nothing else; a socket that is handed over with a [`Connector`] speaks it as a client. The
//! machine sees plaintext and does not know the difference, but that a connection's first bytes come later.

mod end;
mod handshakes;
mod link;
pub(crate) mod node;
mod outgoing;
mod session;
#[cfg(test)]
pub(crate) mod tests;

pub use end::TlsEnd;
pub(crate) use handshakes::Handshakes;
pub(crate) use link::Link;
pub use node::{CurrentIdentity, NodeIdentity, node_name};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use session::{Session, Side};
use std::fmt;
use std::sync::Arc;

/// Why a certificate, a key or a name cannot be used.
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
    /// The certificate does not name exactly one node: see [`node_name`].
    NotANode,
    /// The certificate names another node or zone than the one that it is to replace.
    OtherNode {
        /// Who the node is.
        is: String,
        /// Whom the certificate names.
        offered: String,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { what, why } => write!(f, "no {what} can be read from this PEM text: {why}"),
            Self::Name(name) => write!(f, "{name:?} is neither a host's name nor an address"),
            Self::Unusable(why) => write!(f, "certificate and key cannot be used: {why}"),
            Self::NotANode => write!(
                f,
                "the certificate does not name one node of a zone: its DNS names need exactly one node-<id>.zone-<id>.tiderace.internal, each id 16 hexadecimal digits"
            ),
            Self::OtherNode { is, offered } => {
                write!(f, "the certificate names {offered}, and this node is {is}")
            }
        }
    }
}

impl std::error::Error for TlsError {}

/// A certificate chain, the end entity's first, with its private key, both as PEM text (RFC 7468).
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The chain.
    pub chain: &'a [u8],
    /// The key: PKCS #8, PKCS #1 or SEC 1.
    pub key: &'a [u8],
}

impl fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity<'_> {
    fn read(self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates("certificate", self.chain)?;
        let key = PrivateKeyDer::from_pem_slice(self.key).map_err(|error| TlsError::Pem {
            what: "private key",
            why: error.to_string(),
        })?;
        Ok((chain, key))
    }
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

fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA certificate", pem)? {
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(Arc::new(roots))
}

fn unusable(error: impl fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// How connections are accepted with TLS.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// Accepts as `identity`. With `client_ca`, PEM text of one or more CA certificates, only clients that one of them has
    /// signed are let in.
    ///
    /// # Errors
    /// What cannot be read or used.
    pub fn new(identity: Identity<'_>, client_ca: Option<&[u8]>) -> Result<Self, TlsError> {
        let (chain, key) = identity.read()?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots(pem)?, provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(unusable)?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        // Connections are few and long: what would let a later one skip a step is not worth its memory.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn accept(&self) -> Result<Link, rustls::Error> {
        let server = rustls::server::UnbufferedServerConnection::new(Arc::clone(&self.0))?;
        Ok(Link::new(Session::new(Side::Server(Box::new(server)))))
    }
}

/// How a connection that was opened here speaks TLS.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// Trusts whom one of the CA certificates in `ca` (PEM text) has signed for the host `name`, a name or an IP address;
    /// shows `identity` to servers that ask for one.
    ///
    /// # Errors
    /// What cannot be read or used.
    pub fn new(ca: &[u8], identity: Option<Identity<'_>>, name: &str) -> Result<Self, TlsError> {
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots(ca)?);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(unusable)?
            }
        };
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        Ok(Self { config, name })
    }

    pub(crate) fn connect(&self) -> Result<Link, rustls::Error> {
        let client = rustls::client::UnbufferedClientConnection::new(
            Arc::clone(&self.config),
            self.name.clone(),
        )?;
        let mut link = Link::new(Session::new(Side::Client(Box::new(client))));
        link.begin();
        Ok(link)
    }

    /// The same for somebody who has a blocking socket: rustls' own configuration and the name to ask for.
    #[must_use]
    pub fn parts(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (Arc::clone(&self.config), self.name.clone())
    }
}
