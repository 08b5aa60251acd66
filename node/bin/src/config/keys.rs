//! The one table of configuration keys. The flags of `serve` and `dev`, the `TIDERACE_*` variables, the keys of the file,
//! `--print-config` and docs/config.toml all come from it or are tested against it.

/// One key. Its value is text here, whatever it came from; `super` gives it its type and its bounds.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in the file. The flag has dashes for underscores; the variable is in capitals behind `TIDERACE_`.
    pub(crate) name: &'static str,
    /// What stands for its value in the help.
    pub(crate) metavar: &'static str,
    /// Its value when nobody gives one.
    pub(crate) default: &'static str,
    /// What it does, its bounds, in one sentence.
    pub(crate) help: &'static str,
    /// Whether the file writes it in quotes.
    pub(crate) is_quoted: bool,
}

const fn text(
    name: &'static str,
    metavar: &'static str,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key {
        name,
        metavar,
        default,
        help,
        is_quoted: true,
    }
}

/// Every key, in the order in which people think of them.
pub(crate) const KEYS: [Key; 26] = [
    text(
        "data_dir",
        "DIR",
        "./tiderace-data",
        "Where events are kept; made at the first start",
    ),
    text(
        "shards",
        "COUNT",
        "auto",
        "Pinned threads, each with its journal: 1 to 256, fixed at the first start; auto: one per core",
    ),
    text(
        "listen",
        "ADDR",
        "127.0.0.1:7450",
        "The address that all shards share: what clients are given",
    ),
    text(
        "shard_listen",
        "ADDR",
        "127.0.0.1:7460",
        "The first shard's own address; shard n listens n ports above it",
    ),
    text(
        "advertise",
        "IP",
        "auto",
        "The IP that clients are told to connect to; auto: that of `listen`",
    ),
    text(
        "tls_cert",
        "FILE",
        "",
        "The node's certificate chain (PEM): clients must speak TLS 1.3 then; empty: none",
    ),
    text("tls_key", "FILE", "", "The private key of tls_cert (PEM)"),
    text(
        "tls_client_ca",
        "FILE",
        "",
        "CA certificates (PEM): only clients that one of them has signed are let in; empty: all",
    ),
    text(
        "peer_listen",
        "ADDR",
        "",
        "Where other nodes of the zone connect, with certificates at both ends; empty: the node is by itself",
    ),
    text(
        "peer_advertise",
        "IP",
        "auto",
        "The IP that other nodes are told to connect to; auto: that of `peer_listen`",
    ),
    text(
        "peer_cert",
        "FILE",
        "",
        "This node's certificate for other nodes (PEM), which names node and zone; empty: the node is by itself",
    ),
    text("peer_key", "FILE", "", "The private key of peer_cert (PEM)"),
    text(
        "peer_ca",
        "FILE",
        "",
        "CA certificates (PEM) that sign the nodes of the zone, and nothing else",
    ),
    text(
        "peers",
        "LIST",
        "",
        "Nodes of the zone to join, ID@ADDR with commas between",
    ),
    Key {
        name: "found_zone",
        metavar: "BOOL",
        default: "false",
        help: "Whether an empty directory founds a zone of several nodes; say it once in the life of a zone: true or false",
        is_quoted: false,
    },
    text(
        "admin_listen",
        "ADDR",
        "127.0.0.1:7440",
        "HTTP for /livez, /readyz and /metrics",
    ),
    text(
        "memory",
        "BYTES",
        "auto",
        "Buffers of all shards together: at least 24MiB per shard; auto: 64MiB per shard",
    ),
    text(
        "segment",
        "BYTES",
        "128MiB",
        "A journal file: 4MiB to 2GiB in steps of 4KiB, fixed at the first start",
    ),
    text(
        "prewrite",
        "BYTES",
        "auto",
        "Journal kept written with zeros ahead of each shard's appends, beside two reserve files; auto: one file",
    ),
    text(
        "durability",
        "LEVEL",
        "local",
        "What an acknowledgement promises for streams that do not say: memory or local",
    ),
    Key {
        name: "pin",
        metavar: "BOOL",
        default: "true",
        help: "Whether each shard keeps a core to itself: true or false",
        is_quoted: false,
    },
    text(
        "busy_poll",
        "DURATION",
        "0s",
        "How long a shard looks for work before it sleeps: 0s to 10ms",
    ),
    text(
        "scrub",
        "BYTES",
        "8MiB",
        "Read of each journal per second in search of damage, a pass a day: 64KiB to 4GiB; 0: never",
    ),
    text(
        "drain_timeout",
        "DURATION",
        "30s",
        "How long a stop may take to finish what was promised: 1s to 1h",
    ),
    text(
        "log_level",
        "LEVEL",
        "info",
        "error, warn, info, debug or trace, also by module: warn,tiderace=debug",
    ),
    text(
        "log_format",
        "FORMAT",
        "text",
        "text for people or json for machines",
    ),
];

impl Key {
    /// The key's flag, without its dashes.
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The key's environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("TIDERACE_{}", self.name.to_ascii_uppercase())
    }
}

/// The place of a key in [`KEYS`].
pub(crate) fn place_of(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}
