//! A CA of a test's own, and the certificates that it signs, as files.

use crate::scratch::Scratch;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::path::PathBuf;

/// A CA.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate.
    pub ca: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A CA whose files lie in the test's directory and begin with `name`.
    #[must_use]
    pub fn new(scratch: &Scratch, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let ca = scratch.join(&format!("{name}-ca.pem"));
        fs::write(&ca, certificate.pem()).expect("a file in a test's directory");
        Self {
            ca,
            name: name.to_owned(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Signs the certificate of a node of a zone.
    #[must_use]
    pub fn sign_node(&self, scratch: &Scratch, node: u64, zone: u64) -> Signed {
        let name = format!("node-{node:016x}.zone-{zone:016x}.tiderace.internal");
        self.sign(scratch, &name)
    }

    /// Signs a certificate for a host's name or an IP address.
    #[must_use]
    pub fn sign(&self, scratch: &Scratch, host: &str) -> Signed {
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let at = |what| scratch.join(&format!("{}-{host}-{what}.pem", self.name));
        let signed = Signed {
            cert: at("cert"),
            key: at("key"),
        };
        fs::write(&signed.cert, certificate.pem()).expect("a file in a test's directory");
        fs::write(&signed.key, key.serialize_pem()).expect("a file in a test's directory");
        signed
    }
}
