//! The listening sockets: one address that all shards share, and one for each shard. An address that is taken is found
//! before anything is recovered, and said with who to look for.

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::tls;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tiderace_io::{Listen, Listener};

/// The sockets of one node.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// What clients are given.
    pub(crate) shared: SocketAddr,
    /// What clients are told about each shard.
    pub(crate) shard_addresses: Vec<SocketAddr>,
    /// Each shard's listeners: the shared one and its own.
    pub(crate) listeners: Vec<Vec<Listener>>,
    /// Where other nodes of the zone are let in, and what they are told.
    pub(crate) peers: Option<(Listener, SocketAddr)>,
}

impl Sockets {
    /// Binds everything or nothing.
    pub(crate) fn bind(config: &Config, shards: u16) -> Result<Self, Failure> {
        let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let secured = |listener: Listener| match &acceptor {
            None => listener,
            Some(acceptor) => listener.with_tls(acceptor.clone()),
        };
        let deadline = Instant::now() + TEARDOWN_MAX;
        let mut shared = config.listen;
        // Sockets that share a port do not exclude those of another process of this user: ask for it alone first.
        let alone = bind_soon(&Listen::on(shared), deadline)
            .map_err(|error| refused("listen", shared, &error))?;
        shared.set_port(alone.address().port());
        drop(alone);
        let mut listeners = Vec::with_capacity(usize::from(shards));
        let mut shard_addresses = Vec::with_capacity(usize::from(shards));
        for shard in 0..shards {
            let of_all = bind_soon(
                &Listen {
                    shared: true,
                    ..Listen::on(shared)
                },
                deadline,
            )
            .map_err(|error| refused("listen", shared, &error))?;
            let mut own = config.shard_listen;
            if own.port() != 0 {
                let port = own.port().checked_add(shard).ok_or_else(|| {
                    Failure::new(
                        Exit::Config,
                        format!("shard_listen = {own} leaves no port for shard {shard}"),
                    )
                    .hint("choose a lower port: shard n listens n ports above it")
                })?;
                own.set_port(port);
            }
            let own = bind_soon(&Listen::on(own), deadline)
                .map_err(|error| refused("shard_listen", own, &error))?;
            shard_addresses.push(SocketAddr::new(config.advertise, own.address().port()));
            listeners.push(vec![secured(of_all), secured(own)]);
        }
        let shared = SocketAddr::new(config.advertise, shared.port());
        let peers = match &config.peers {
            None => None,
            Some(peers) => {
                let door = bind_soon(&Listen::on(peers.listen), deadline)
                    .map_err(|error| refused("peer_listen", peers.listen, &error))?;
                let told = SocketAddr::new(peers.advertise, door.address().port());
                Some((door, told))
            }
        };
        Ok(Self {
            shared,
            shard_addresses,
            listeners,
            peers,
        })
    }
}

/// How long the sockets of a node that was killed may outlive it: the kernel takes its ring down behind its back, and the
/// ring's accept holds them until its last write to the journal is done.
pub(crate) const TEARDOWN_MAX: Duration = Duration::from_secs(2);

/// Binds, and waits for a killed node's sockets to go. Whoever really holds the address still holds it at the deadline.
fn bind_soon(listen: &Listen, deadline: Instant) -> io::Result<Listener> {
    loop {
        match Listener::bind(*listen) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound,
        }
    }
}

/// Says why an address cannot be listened on.
pub(crate) fn refused(key: &str, address: SocketAddr, error: &io::Error) -> Failure {
    let port = address.port();
    let (what, hint) = match error.kind() {
        ErrorKind::AddrInUse => (
            format!("{key} = {address} is taken by another process"),
            format!(
                "find it with `ss -ltnp 'sport = :{port}'` and stop it, or choose another address with --{}",
                key.replace('_', "-")
            ),
        ),
        ErrorKind::AddrNotAvailable => (
            format!("{key} = {address} is no address of this host"),
            "choose one that `ip address` lists, or 0.0.0.0 with advertise set".to_owned(),
        ),
        ErrorKind::PermissionDenied => (
            format!("{key} = {address} may not be listened on by this user"),
            "choose a port from 1024 on".to_owned(),
        ),
        _ => (
            format!("{key} = {address} cannot be listened on: {error}"),
            "choose another address".to_owned(),
        ),
    };
    Failure::new(Exit::AddressTaken, what).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FlagValues, Settings};
    use std::net::TcpListener;

    fn config(listen: SocketAddr, shard_listen: SocketAddr) -> Config {
        let mut flags = FlagValues::default();
        let place = |name| crate::config::keys::place_of(name).expect("a key");
        flags[place("listen")] = Some(listen.to_string());
        flags[place("shard_listen")] = Some(shard_listen.to_string());
        Settings::resolve(&flags, |_| None, None)
            .check()
            .expect("good")
    }

    #[test]
    fn free_ports_are_found_and_told() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = Sockets::bind(&config(any, any), 3).expect("free ports");
        assert_ne!(sockets.shared.port(), 0);
        let mut ports: Vec<u16> = sockets
            .shard_addresses
            .iter()
            .map(SocketAddr::port)
            .collect();
        ports.push(sockets.shared.port());
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 4);
        assert!(
            sockets
                .listeners
                .iter()
                .all(|own| own.len() == 2 && own[0].address() == sockets.shared)
        );
    }

    #[test]
    fn a_taken_port_is_refused_even_when_its_owner_shares_it() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let holder = TcpListener::bind(any).expect("a free port");
        let taken = holder.local_addr().expect("bound");
        let failure = Sockets::bind(&config(taken, any), 1).expect_err("taken");
        assert_eq!(failure.exit, Exit::AddressTaken);
        let message = failure.to_string();
        assert!(
            message.starts_with(&format!("listen = {taken} is taken"))
                && message.contains("ss -ltnp"),
            "{message}"
        );
        let failure = Sockets::bind(&config(any, taken), 1).expect_err("taken");
        assert!(
            failure
                .to_string()
                .starts_with(&format!("shard_listen = {taken} is taken"))
        );
        let node = Sockets::bind(&config(any, any), 2).expect("free ports");
        assert_eq!(
            Sockets::bind(&config(node.shared, any), 1)
                .expect_err("taken")
                .exit,
            Exit::AddressTaken
        );
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        let elsewhere: SocketAddr = "192.0.2.1:7450".parse().expect("an address");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let failure = Sockets::bind(&config(elsewhere, any), 1).expect_err("not ours");
        assert!(
            failure.to_string().contains("no address of this host"),
            "{failure}"
        );
    }
}
