//! Who a node is to other nodes: a certificate that names the node, its zone and its role, signed by the zone's CA for
//! nodes, which signs nothing else. Both ends of a link show one and verify the other's, so a link always has two known
//! ends. The identity may be replaced while the drivers run: whoever connects or is let in afterwards meets the new one,
//! and every link whose other end the new one does not trust any more is ended.
//!
//! Invariants: what is read out of a certificate was verified before; a certificate with more than one name of a node, or
//! with a pattern for one, names no node.

use super::{Identity, Link, TlsError, provider, roots, unusable};
use crate::tls::session::{Failed, Session, Side};
use crate::waker::Waker;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{StoresServerSessions, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, ServerConfig, SignatureScheme,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tiderace_base::ids::{NodeId, ZoneId};
use tiderace_base::operation::ConnectError;

/// The end of every name in this form. `internal` is kept for such use: nobody outside can own it.
const SUFFIX: &str = ".tiderace.internal";

/// A node's name in its certificate, a DNS name: `node-<id>.zone-<id>.tiderace.internal`, each id 16 lower-case hexadecimal
/// digits. The first word is the role: a client's certificate, `client-..`, is not a node's.
#[must_use]
pub fn node_name(node: NodeId, zone: ZoneId) -> String {
    format!("node-{:016x}.zone-{:016x}{SUFFIX}", node.get(), zone.get())
}

/// The inverse of [`node_name`]; none for any other name, however alike.
fn parse(name: &str) -> Option<(NodeId, ZoneId)> {
    let (node, zone) = name.strip_suffix(SUFFIX)?.split_once('.')?;
    let id = |word: &str, role: &str| {
        let digits = word.strip_prefix(role)?;
        let is_plain = digits.len() == 16 && !digits.bytes().any(|it| it.is_ascii_uppercase());
        // A sign would be taken for a part of the number.
        let is_hex = digits.bytes().all(|it| it.is_ascii_hexdigit());
        (is_plain && is_hex).then(|| u64::from_str_radix(digits, 16).ok())?
    };
    Some((
        NodeId::new(id(node, "node-")?),
        ZoneId::new(id(zone, "zone-")?),
    ))
}

/// The node and the zone that a certificate names. None: not exactly one.
fn named_by(certificate: &CertificateDer<'_>) -> Option<(NodeId, ZoneId)> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate
        .valid_dns_names()
        .filter(|name| name.to_ascii_lowercase().ends_with(SUFFIX));
    let name = names.next()?;
    names.next().is_none().then(|| parse(name))?
}

/// What a node shows to other nodes, and whom it trusts as one.
pub struct NodeIdentity {
    node: NodeId,
    zone: ZoneId,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    trust: Arc<Trust>,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("node", &self.node)
            .field("zone", &self.zone)
            .finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Shows `identity`, whose certificate has to name a node (see [`node_name`]), and trusts nodes of the same zone that
    /// `ca` has signed: PEM text of one or more CA certificates, two while one replaces the other. It must not be the CA of
    /// clients. `revoked`, PEM text of revocation lists (RFC 5280) of these CAs, names certificates that are not trusted any
    /// more; with one list, each CA needs one.
    ///
    /// # Errors
    /// What cannot be read or used, and a certificate that names no node.
    pub fn new(
        identity: Identity<'_>,
        ca: &[u8],
        revoked: Option<&[u8]>,
    ) -> Result<Self, TlsError> {
        let (chain, key) = identity.read()?;
        let (node, zone) = chain.first().and_then(named_by).ok_or(TlsError::NotANode)?;
        let trust = Arc::new(Trust::new(zone, ca, revoked)?);
        let versions = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::clone(&trust) as Arc<dyn ClientCertVerifier>)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        // One ticket that nobody can use: it tells the other end that its certificate was taken. TLS 1.3 has no other word
        // for that, and without one a node that is not trusted would take itself for connected.
        server.send_tls13_tickets = 1;
        server.session_storage = Arc::new(Forgetful);
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&trust) as Arc<dyn ServerCertVerifier>)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        client.resumption = Resumption::disabled();
        Ok(Self {
            node,
            zone,
            server: Arc::new(server),
            client: Arc::new(client),
            trust,
        })
    }

    /// The node that the certificate names.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The zone that the certificate names.
    #[must_use]
    pub const fn zone(&self) -> ZoneId {
        self.zone
    }

    /// The accepting end of a link.
    pub(crate) fn accept(&self) -> Result<Link, Error> {
        let server = UnbufferedServerConnection::new(Arc::clone(&self.server))?;
        Ok(Link::new(Session::new(Side::Server(Box::new(server)))))
    }

    /// The connecting end of a link to `node`.
    pub(crate) fn connect(&self, node: NodeId) -> Result<Link, Error> {
        let name = ServerName::try_from(node_name(node, self.zone))
            .map_err(|_| Error::General("a node's name is no name of a host".into()))?;
        let client = UnbufferedClientConnection::new(Arc::clone(&self.client), name)?;
        let mut link = Link::new(Session::new(Side::Client(Box::new(client))));
        link.begin();
        Ok(link)
    }

    /// Whether a link that is open would be let in now, by the certificates that its other end has shown.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'_>], node: NodeId) -> bool {
        let Some((first, intermediates)) = chain.split_first() else {
            return false;
        };
        let now = UnixTime::now();
        let as_server = self.trust.server.verify_server_cert(
            first,
            intermediates,
            &match ServerName::try_from(node_name(node, self.zone)) {
                Ok(name) => name,
                Err(_) => return false,
            },
            &[],
            now,
        );
        let as_client = || {
            let it = &self.trust.client;
            it.verify_client_cert(first, intermediates, now)
        };
        // A node's certificate serves both ends; one that has only the use of its own end was taken for that.
        let is_trusted = as_server.is_ok() || as_client().is_ok();
        is_trusted && named_by(first) == Some((node, self.zone))
    }
}

/// The node at the other end of a link whose handshake is done.
pub(crate) fn node_of(chain: &[CertificateDer<'_>]) -> Option<NodeId> {
    let (node, _) = named_by(chain.first()?)?;
    Some(node)
}

/// Why a connect failed, as its machine hears it.
pub(crate) fn reason(failed: &Failed) -> ConnectError {
    match failed {
        Failed::HandshakeTooSlow => ConnectError::TimedOut,
        Failed::Tls(Error::InvalidCertificate(CertificateError::Other(other)))
            if other.0.is::<OtherNode>() =>
        {
            ConnectError::WrongNode
        }
        Failed::Tls(Error::AlertReceived(alert)) if is_about_a_certificate(*alert) => {
            ConnectError::Rejected
        }
        Failed::Tls(_) | Failed::HandshakeTooLong | Failed::NotUsedUp | Failed::Distrusted => {
            ConnectError::NotTrusted
        }
    }
}

const fn is_about_a_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

/// The identity that a node's drivers use now. Clones share it.
#[derive(Clone)]
pub struct CurrentIdentity(Arc<Current>);

struct Current {
    identity: Mutex<Arc<NodeIdentity>>,
    /// Grows with each replacement.
    version: AtomicU64,
    /// Of the drivers, which may sleep.
    wakers: Mutex<Vec<Weak<Waker>>>,
}

impl fmt::Debug for CurrentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

impl CurrentIdentity {
    /// Begins with `identity`.
    #[must_use]
    pub fn new(identity: NodeIdentity) -> Self {
        Self(Arc::new(Current {
            identity: Mutex::new(Arc::new(identity)),
            version: AtomicU64::new(0),
            wakers: Mutex::default(),
        }))
    }

    /// What is used now.
    #[must_use]
    pub fn current(&self) -> Arc<NodeIdentity> {
        Arc::clone(&lock(&self.0.identity))
    }

    /// Uses `identity` from now on, from any thread. Handshakes under way end with the one that they began with. Each driver
    /// then looks at its links once, and ends those whose other end is not trusted any more: a hangup, as if the network had
    /// ended it. So this is how a revocation ends what is open, and what an expired certificate has open ends at the latest
    /// when this is called again.
    ///
    /// # Errors
    /// It is the identity of another node or zone: nothing is changed.
    pub fn replace(&self, identity: NodeIdentity) -> Result<(), TlsError> {
        let mut current = lock(&self.0.identity);
        if (current.node, current.zone) != (identity.node, identity.zone) {
            return Err(TlsError::OtherNode {
                is: node_name(current.node, current.zone),
                offered: node_name(identity.node, identity.zone),
            });
        }
        *current = Arc::new(identity);
        drop(current);
        self.0.version.fetch_add(1, Ordering::Release);
        let mut wakers = lock(&self.0.wakers);
        wakers.retain(|waker| waker.upgrade().inspect(|waker| waker.wake()).is_some());
        Ok(())
    }

    /// How often it was replaced.
    pub(crate) fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// A driver that wants to be woken by a replacement.
    pub(crate) fn tell(&self, waker: &Arc<Waker>) {
        lock(&self.0.wakers).push(Arc::downgrade(waker));
    }
}

/// Whoever panicked with it had finished: each holds it for one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another node of the zone was reached.
#[derive(Debug)]
struct OtherNode(NodeId);

impl fmt::Display for OtherNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate names node {:016x}", self.0.get())
    }
}

impl std::error::Error for OtherNode {}

fn not_a_node() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Verifies nodes of one zone, at either end.
#[derive(Debug)]
struct Trust {
    zone: ZoneId,
    server: Arc<WebPkiServerVerifier>,
    client: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    fn new(zone: ZoneId, ca: &[u8], revoked: Option<&[u8]>) -> Result<Self, TlsError> {
        let roots = roots(ca)?;
        let lists = match revoked {
            None => Vec::new(),
            Some(pem) => {
                let found: Result<Vec<_>, _> =
                    CertificateRevocationListDer::pem_slice_iter(pem).collect();
                found.map_err(|error| TlsError::Pem {
                    what: "revocation list",
                    why: error.to_string(),
                })?
            }
        };
        let server = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .with_crls(lists.clone())
            .build()
            .map_err(unusable)?;
        let client = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .with_crls(lists)
            .build()
            .map_err(unusable)?;
        Ok(Self {
            zone,
            server,
            client,
        })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.server.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        // The name is verified last: what fails by it alone is signed, in its time and not revoked.
        let verified = match verified {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => None,
            verified => Some(verified?),
        };
        let (node, _) = named_by(end_entity)
            .filter(|(_, zone)| *zone == self.zone)
            .ok_or_else(not_a_node)?;
        let is_asked = matches!(
            server_name,
            ServerName::DnsName(asked) if asked.as_ref() == node_name(node, self.zone)
        );
        if is_asked {
            return verified.ok_or_else(not_a_node);
        }
        let other = rustls::OtherError(Arc::new(OtherNode(node)));
        Err(Error::InvalidCertificate(CertificateError::Other(other)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.server.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.server.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.server.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.client.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let client = &self.client;
        let verified = client.verify_client_cert(end_entity, intermediates, now)?;
        named_by(end_entity)
            .filter(|(_, zone)| *zone == self.zone)
            .map(|_| verified)
            .ok_or_else(not_a_node)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.client.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.client.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.client.supported_verify_schemes()
    }
}

/// Keeps no session and says that it does, so that a ticket is sent.
#[derive(Debug)]
struct Forgetful;

impl StoresServerSessions for Forgetful {
    fn put(&self, _: Vec<u8>, _: Vec<u8>) -> bool {
        true
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
