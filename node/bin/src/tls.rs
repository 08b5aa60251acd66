//! The files of TLS, for a node and for the commands that connect to one. What cannot be read or used is named.

use crate::cli::Server;
use crate::config;
use crate::exit::{Exit, Failure};
use std::path::Path;
use tiderace_client::Tls;
use tiderace_io::{Acceptor, Identity, NodeIdentity};

fn read(exit: Exit, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .map_err(|error| Failure::new(exit, format!("cannot read {}: {error}", path.display())))
}

/// How a node accepts connections.
pub(crate) fn acceptor(tls: &config::Tls) -> Result<Acceptor, Failure> {
    let chain = read(Exit::Config, &tls.cert)?;
    let key = read(Exit::Config, &tls.key)?;
    let ca = tls.client_ca.as_deref();
    let ca = ca.map(|path| read(Exit::Config, path)).transpose()?;
    let identity = Identity {
        chain: &chain,
        key: &key,
    };
    Acceptor::new(identity, ca.as_deref()).map_err(|error| {
        let ca = tls.client_ca.as_deref().map(Path::display);
        let ca = ca
            .map(|ca| format!(", tls_client_ca = {ca}"))
            .unwrap_or_default();
        let (cert, key) = (tls.cert.display(), tls.key.display());
        Failure::new(
            Exit::Config,
            format!("TLS is not possible with tls_cert = {cert}, tls_key = {key}{ca}: {error}"),
        )
        .hint("docs/tls.md shows how to make certificates")
    })
}

/// Who this node is to other nodes, and whom it trusts as one.
pub(crate) fn of_node(peers: &config::Peers) -> Result<NodeIdentity, Failure> {
    let chain = read(Exit::Config, &peers.cert)?;
    let key = read(Exit::Config, &peers.key)?;
    let ca = read(Exit::Config, &peers.ca)?;
    let identity = Identity {
        chain: &chain,
        key: &key,
    };
    NodeIdentity::new(identity, &ca, None).map_err(|error| {
        let (cert, key, ca) = (
            peers.cert.display(),
            peers.key.display(),
            peers.ca.display(),
        );
        Failure::new(
            Exit::Config,
            format!("no links with peer_cert = {cert}, peer_key = {key}, peer_ca = {ca}: {error}"),
        )
        .hint("docs/tls.md shows how to make the certificates of nodes")
    })
}

/// How a command connects. `None`: plain.
pub(crate) fn of_command(server: &Server) -> Result<Option<Tls>, Failure> {
    let identity = match (&server.tls_cert, &server.tls_key) {
        (Some(cert), Some(key)) => Some((read(Exit::Usage, cert)?, read(Exit::Usage, key)?)),
        _ => None,
    };
    let Some(ca) = &server.tls_ca else {
        return Ok(None);
    };
    let ca = read(Exit::Usage, ca)?;
    let identity = identity.as_ref();
    let identity = identity.map(|(cert, key)| (cert.as_slice(), key.as_slice()));
    let wrong = |error: tiderace_client::TlsError| {
        Failure::new(Exit::Usage, format!("TLS is not possible: {error}"))
            .hint("docs/tls.md shows how to make certificates")
    };
    let tls = Tls::new(&ca, identity).map_err(wrong)?;
    Ok(Some(match &server.tls_name {
        None => tls,
        Some(name) => tls.server_name(name).map_err(wrong)?,
    }))
}
