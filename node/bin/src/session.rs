//! What the client commands share: how they find the node, the runtime they run on, and every refusal of the SDK as a
//! sentence with an exit code.

use crate::cli::{SERVER_DEFAULT, SERVER_VARIABLE, Server};
use crate::exit::{Exit, Failure};
use crate::stream;
use crate::tls;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tiderace_client::{Client, ConsumeError, Options, Refusal, RequestError, SendError, Tls};
use tiderace_wire::error::ErrorCode;

/// How long a command waits for a node before it says that there is none. A person waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a command's future on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .map_err(|error| Failure::new(Exit::Failed, format!("no runtime can be made: {error}")))?;
    runtime.block_on(future)
}

/// The addresses that a command was given: by flag, by environment, or the default.
pub(crate) fn addresses(server: &Server) -> Result<Vec<SocketAddr>, Failure> {
    if !server.server.is_empty() {
        return parse_addresses("--server", server.server.iter().map(String::as_str));
    }
    let text = std::env::var(SERVER_VARIABLE).unwrap_or_else(|_| SERVER_DEFAULT.to_owned());
    parse_addresses(SERVER_VARIABLE, text.split(','))
}

/// Reads addresses and looks host names up. A name that is not known is passed over while another one is.
fn parse_addresses<'a>(
    whence: &str,
    texts: impl Iterator<Item = &'a str>,
) -> Result<Vec<SocketAddr>, Failure> {
    let mut found = Vec::new();
    let mut unknown = None;
    for text in texts {
        let text = text.trim();
        let (host, port) = split_address(text).map_err(|why| {
            Failure::new(Exit::Usage, format!("{whence}: {text:?} {why}")).hint(format!(
                "write HOST:PORT, such as {SERVER_DEFAULT}; several are separated by commas"
            ))
        })?;
        match (host, port).to_socket_addrs() {
            Ok(addresses) => found.extend(addresses),
            Err(error) => {
                let what = format!("{whence}: the host name {host:?} is not known: {error}");
                let failure = Failure::new(Exit::Unreachable, what);
                unknown = Some(failure.hint("check the name, or write the IP address"));
            }
        }
    }
    match unknown {
        Some(failure) if found.is_empty() => Err(failure),
        _ => Ok(found),
    }
}

/// A host, without the brackets of an IPv6 address, and its port; or what is wrong, as the end of a sentence that begins
/// with the text.
pub(crate) fn split_address(text: &str) -> Result<(&str, u16), &'static str> {
    if text.contains("://") {
        return Err("is a URL, and an address is wanted");
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err("names no port (an IPv6 address stands in brackets before it)");
    }
    let (host, port) = text.rsplit_once(':').ok_or("names no port")?;
    let host = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() {
        return Err("names no host");
    }
    match port.parse() {
        Ok(0) | Err(_) => Err("ends with no port: a port is a number from 1 to 65535"),
        Ok(port) => Ok((host, port)),
    }
}

/// Connects to the node that a command means.
pub(crate) async fn connect(server: &Server) -> Result<Client, Failure> {
    let tls = tls::of_command(server)?;
    connect_to(&addresses(server)?, tls).await
}

/// Connects to one of these addresses.
pub(crate) async fn connect_to(
    addresses: &[SocketAddr],
    tls: Option<Tls>,
) -> Result<Client, Failure> {
    let options = Options {
        tls: tls.clone(),
        name: "tiderace".to_owned(),
        connect_timeout: PATIENCE,
        request_timeout: PATIENCE,
        ..Options::default()
    };
    let shown = shown(addresses);
    Client::connect(addresses, options)
        .await
        .map_err(|error| match error {
            RequestError::Unreachable => unreachable_at(&shown),
            RequestError::TlsFailed => {
                let why = tls.and_then(|tls| tls.last_failure()).unwrap_or_default();
                Failure::new(
                    Exit::Unreachable,
                    format!("no TLS connection can be made with {shown}: {why}"),
                )
                .hint("the node's certificate must be signed by --tls-ca and name the IP address that it is connected by, or --tls-name")
            }
            RequestError::Violation(_) => Failure::new(
                Exit::Unreachable,
                format!("what answers at {shown} is no Tiderace node: {error}"),
            )
            .hint(
                "take the address that the node's log calls `server`; the admin port speaks HTTP",
            ),
            other => request_failure("the node", &other),
        })
}

/// Addresses as they are named to people.
pub(crate) fn shown(addresses: &[SocketAddr]) -> String {
    let shown: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    shown.join(", ")
}

fn unreachable_at(addresses: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("no node answers at {addresses}")).hint(format!(
        "start one with `tiderace dev`, or give its address with --server or {SERVER_VARIABLE}; one that speaks TLS wants --tls-ca"
    ))
}

/// Why a request about `what` failed.
pub(crate) fn request_failure(what: &str, error: &RequestError) -> Failure {
    match error {
        RequestError::Unreachable | RequestError::TlsFailed => {
            Failure::new(Exit::Unreachable, format!("{what}: {error}"))
                .hint("is the node still running?")
        }
        RequestError::Refused(refusal) => refusal_failure(what, refusal),
        RequestError::Deadline => Failure::new(Exit::Unreachable, format!("{what}: {error}"))
            .hint("look at the node's log and at /readyz, then ask again"),
        RequestError::Closed | RequestError::Violation(_) | RequestError::TooMany => {
            Failure::new(Exit::Failed, format!("{what}: {error}"))
        }
    }
}

fn refusal_failure(what: &str, refusal: &Refusal) -> Failure {
    let code = refusal.code;
    let said = format!(
        "{what}: {} ({code:?}, error {})",
        code.meaning().trim_end_matches('.'),
        code.code()
    );
    match code {
        ErrorCode::UnknownStream => {
            Failure::new(Exit::NoSuchStream, format!("there is no stream {what}"))
                .hint("`tiderace stream ls` lists them; `tiderace stream create` makes one")
        }
        ErrorCode::UnknownPartition => Failure::new(Exit::NoSuchStream, said)
            .hint("`tiderace stream describe` lists the partitions"),
        ErrorCode::StreamExists => Failure::new(Exit::StreamExists, said)
            .hint("choose another path, or delete that stream"),
        ErrorCode::BadPath => {
            // The node's reason is one of several: this names it.
            let why = stream::path_fault(what).map_or(said, |why| {
                format!("the path {what:?} {why} ({code:?}, error {})", code.code())
            });
            Failure::new(Exit::Refused, why).hint(stream::PATH_HINT)
        }
        ErrorCode::BadPartitions => Failure::new(Exit::Refused, said).hint(stream::PARTITIONS_HINT),
        ErrorCode::ReadOnly => Failure::new(Exit::Refused, said)
            .hint("free space on the node's disk; it recovers by itself"),
        ErrorCode::OffsetBelowStart => {
            let hint = format!("the first offset that is kept is {}", refusal.detail_a);
            Failure::new(Exit::History, said).hint(hint)
        }
        ErrorCode::OffsetBeyondEnd => Failure::new(Exit::History, said)
            .hint(format!("the next offset to come is {}", refusal.detail_a)),
        _ => Failure::new(Exit::Refused, said),
    }
}

/// Why a record of `stream` was not acknowledged.
pub(crate) fn send_failure(stream: &str, error: &SendError) -> Failure {
    match error {
        SendError::Refused(refusal) => refusal_failure(stream, refusal),
        SendError::Stream(error) => request_failure(stream, error),
        SendError::Deadline { maybe_stored } => {
            let hint = if *maybe_stored {
                "the last records may be stored: compare with `tiderace tail` before sending them again"
            } else {
                "the last records are not stored: they can be sent again"
            };
            Failure::new(Exit::Unreachable, format!("{stream}: {error}")).hint(hint)
        }
        SendError::AckedLost(_) => Failure::new(Exit::History, format!("{stream}: {error}"))
            .hint("a fail-over lost them; send them again if they matter, and take durability quorum for such streams"),
        SendError::Closed
        | SendError::OutcomeUnknown
        | SendError::Fenced
        | SendError::RestartsSpent
        | SendError::TooLarge
        | SendError::NoSuchPartition => Failure::new(Exit::Failed, format!("{stream}: {error}")),
    }
}

/// Why `stream` cannot be read on.
pub(crate) fn consume_failure(stream: &str, error: &ConsumeError) -> Failure {
    match error {
        ConsumeError::OutOfRange { refusal, .. } | ConsumeError::Refused { refusal, .. } => {
            refusal_failure(stream, refusal)
        }
        ConsumeError::Stream(error) => request_failure(stream, error),
        ConsumeError::Diverged { end, .. } => {
            Failure::new(Exit::History, format!("{stream}: {error}")).hint(format!(
                "what was read from offset {end} on is void; read on with --from {end}"
            ))
        }
        ConsumeError::Jump { .. } | ConsumeError::Damaged { .. } => {
            Failure::new(Exit::History, format!("{stream}: {error}"))
                .hint("look at the node's log; nothing after this offset was printed")
        }
        ConsumeError::Closed | ConsumeError::Codec { .. } => {
            Failure::new(Exit::Failed, format!("{stream}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: ErrorCode) -> Failure {
        let refusal = Refusal {
            code,
            detail_a: 7,
            detail_b: 0,
        };
        request_failure("shop/orders", &RequestError::Refused(refusal))
    }

    #[test]
    fn each_refusal_has_its_exit_code_and_says_what_to_do() {
        for (code, exit, words) in [
            (
                ErrorCode::UnknownStream,
                Exit::NoSuchStream,
                "there is no stream shop/orders",
            ),
            (
                ErrorCode::StreamExists,
                Exit::StreamExists,
                "choose another path",
            ),
            (
                ErrorCode::OffsetBelowStart,
                Exit::History,
                "first offset that is kept is 7",
            ),
            (ErrorCode::ReadOnly, Exit::Refused, "free space"),
            (
                ErrorCode::BadPath,
                Exit::Refused,
                "between slashes, 255 bytes at most",
            ),
            (ErrorCode::BadPartitions, Exit::Refused, "1 to 16384"),
            (ErrorCode::Busy, Exit::Refused, "(Busy, error 28)"),
        ] {
            let failure = refused(code);
            assert_eq!(failure.exit, exit);
            assert!(failure.to_string().contains(words), "{failure}");
        }
        assert_eq!(
            request_failure("x", &RequestError::Unreachable).exit,
            Exit::Unreachable
        );
    }

    #[test]
    fn addresses_are_separated_by_commas_and_host_names_are_looked_up() {
        let parse = |text: &str| parse_addresses("--server", text.split(','));
        assert_eq!(parse("127.0.0.1:1, [::1]:2").expect("good").len(), 2);
        let local = parse("localhost:17450").expect("every host knows it");
        assert!(!local.is_empty());
        assert!(
            local
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 17450)
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_how_to_write_one() {
        for (text, why) in [
            ("localhost", "names no port"),
            ("127.0.0.1", "names no port"),
            ("::1", "in brackets"),
            ("", "names no port"),
            (":7450", "names no host"),
            ("host:", "1 to 65535"),
            ("host:0", "1 to 65535"),
            ("host:70000", "1 to 65535"),
            ("http://127.0.0.1:7450", "is a URL"),
        ] {
            let failure = parse_addresses("--server", [text].into_iter()).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            let message = failure.to_string();
            assert!(
                message.contains(why)
                    && message.contains("write HOST:PORT, such as 127.0.0.1:7450"),
                "{message}"
            );
        }
    }
}
