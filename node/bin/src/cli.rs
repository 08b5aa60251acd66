//! The command line: what can be typed, and its help. Every configuration key is a flag of `serve` and `dev`, made from
//! the one table.

use crate::config::FlagValues;
use crate::config::keys::KEYS;
use crate::input;
use crate::output;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;

/// Where a node listens when nobody says otherwise.
pub(crate) const SERVER_DEFAULT: &str = "127.0.0.1:7450";
pub(crate) const SERVER_VARIABLE: &str = "TIDERACE_SERVER";
pub(crate) const CONFIG_VARIABLE: &str = "TIDERACE_CONFIG";

const EXAMPLES: &str = "\
Start here:
  tiderace demo                             real events through a node, with its numbers
  tiderace dev                              a node on this machine, to try things on
  tiderace produce shop/orders --create     type lines; each is an event
  tiderace tail shop/orders -f              read them as they come

Exit codes are listed in docs/exit-codes.md.";

/// Event streaming, durable and fast
#[derive(Debug, Parser)]
#[command(name = "tiderace", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// How results are printed: columns for people, or one JSON value per line
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) output: output::Format,
    #[command(subcommand)]
    pub(crate) run: Run,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Run {
    /// Run a node
    Serve(Serve),
    /// Run a node on this machine alone, to develop against
    Dev(Dev),
    /// Show a node at work on real events, every one verified
    Demo(Demo),
    /// Create, list, describe and delete streams
    #[command(subcommand)]
    Stream(Stream),
    /// Send events from a file or from standard input
    Produce(Produce),
    /// Read a stream's events
    Tail(Tail),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration file (TOML); docs/config.toml is an example [env: TIDERACE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print what counts and where each value comes from, then end
    #[arg(long)]
    pub(crate) print_config: bool,
    #[command(flatten)]
    pub(crate) flags: ConfigFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where events are kept: the same as --data-dir
    #[arg(long, value_name = "DIR", conflicts_with = "data_dir")]
    pub(crate) dir: Option<String>,
    #[command(flatten)]
    pub(crate) flags: ConfigFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after the numbers instead of leaving the node running
    #[arg(long)]
    pub(crate) once: bool,
    /// Print one JSON object: the same as -o json
    #[arg(long)]
    pub(crate) json: bool,
    /// Another file in the columns of node/bin/data/README.md
    #[arg(long, value_name = "CSV")]
    pub(crate) file: Option<PathBuf>,
    /// Where events are kept; must be new or empty. By default a temporary directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Events per second of the paced phase, which measures latency
    #[arg(long, value_name = "EVENTS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: u64,
    /// Events of the fast phase, which measures throughput
    #[arg(long, value_name = "EVENTS", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) fast: u64,
    /// Partitions of the stream
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) partitions: u32,
    /// Shards of the node [default: half the cores, because the clients run here too]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) shards: Option<u16>,
}

/// How a command finds the node.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// A node's address, or several separated by commas [env: TIDERACE_SERVER] [default: 127.0.0.1:7450]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) server: Vec<String>,
    /// Speak TLS, and trust the nodes that these CA certificates (PEM) have signed
    #[arg(long, value_name = "FILE", env = "TIDERACE_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// This client's certificate chain (PEM), for a node with tls_client_ca
    #[arg(long, value_name = "FILE", env = "TIDERACE_TLS_CERT", requires_all = ["tls_ca", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM)
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDERACE_TLS_KEY",
        requires = "tls_cert"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// The name that the node's certificate must have [default: the IP address that it is connected by]
    #[arg(
        long,
        value_name = "NAME",
        env = "TIDERACE_TLS_NAME",
        requires = "tls_ca"
    )]
    pub(crate) tls_name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Stream {
    /// Create a stream
    Create(Create),
    /// List streams
    Ls {
        /// Only those whose path begins with this
        #[arg(value_name = "PREFIX")]
        prefix: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Show a stream and its partitions
    Describe {
        /// Its path, such as shop/orders
        #[arg(value_name = "STREAM")]
        path: String,
        #[command(flatten)]
        server: Server,
    },
    /// Delete a stream and all its events
    Delete {
        /// Its path, such as shop/orders
        #[arg(value_name = "STREAM")]
        path: String,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its path: names of letters, digits, `.`, `_` and `-` between slashes, such as shop/orders
    #[arg(value_name = "STREAM")]
    pub(crate) path: String,
    /// How many partitions, 1 to 16384: events with the same key share one and keep their order
    #[arg(short, long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) partitions: u32,
    /// What an acknowledgement promises: local (on this node's disk) or memory [default: the node's]
    #[arg(short, long, value_name = "LEVEL", value_parser = ["memory", "local", "quorum"])]
    pub(crate) durability: Option<String>,
    /// Bytes kept per partition, such as 10GiB [default: all]
    #[arg(long, value_name = "BYTES")]
    pub(crate) retention_bytes: Option<String>,
    /// Age kept, such as 7d [default: all]
    #[arg(long, value_name = "DURATION")]
    pub(crate) retention_age: Option<String>,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Args)]
pub(crate) struct Produce {
    /// The stream's path, such as shop/orders
    #[arg(value_name = "STREAM")]
    pub(crate) path: String,
    /// What to send; - or nothing is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How the input is divided [default: by the file's name, else lines]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<input::Format>,
    /// The field (NDJSON) or column (CSV) that is the key
    #[arg(short, long, value_name = "FIELD")]
    pub(crate) key: Option<String>,
    /// Create the stream, with one partition, when it is absent
    #[arg(long)]
    pub(crate) create: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// The stream's path, such as shop/orders
    #[arg(value_name = "STREAM")]
    pub(crate) path: String,
    /// Where to begin: earliest, latest, an offset, a time (2013-01-01T10:15:00Z) or an age (5m, "2h ago")
    /// [default: earliest]
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: Option<String>,
    /// Go on with what comes; otherwise end where the stream ends now
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only this partition
    #[arg(long, value_name = "N")]
    pub(crate) partition: Option<u32>,
    /// At most this many events, of all partitions together
    ///
    /// With --from: the first that come from there on; then it ends, with -f too.
    ///
    /// Without --from: the newest by the time of their append; with -f all that comes follows them.
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Print values alone, each with a line end
    #[arg(long, conflicts_with = "output")]
    pub(crate) values: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

/// A flag for every configuration key.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFlags(pub(crate) FlagValues);

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(core::array::from_fn(|place| {
            matches.get_one::<String>(KEYS[place].name).cloned()
        })))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| {
            let help = format!(
                "{} [env: {}] [default: {}]",
                key.help,
                key.variable(),
                key.default
            );
            let flag = Arg::new(key.name)
                .long(key.flag())
                .value_name(key.metavar)
                .help(help);
            command.arg(flag.help_heading("Configuration"))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::place_of;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_key_is_a_flag_of_serve_and_dev() {
        for command in ["serve", "dev"] {
            let cli =
                Cli::try_parse_from(["tiderace", command, "--memory", "1GiB", "--data-dir", "d"])
                    .expect("good");
            let (Run::Serve(Serve { flags, .. }) | Run::Dev(Dev { flags, .. })) = cli.run else {
                panic!("a node")
            };
            let at = |name| flags.0[place_of(name).expect("a key")].as_deref();
            assert_eq!(
                (at("memory"), at("data_dir"), at("shards")),
                (Some("1GiB"), Some("d"), None)
            );
        }
    }

    #[test]
    fn several_servers_and_a_global_output_are_taken_anywhere() {
        let cli = Cli::try_parse_from([
            "tiderace",
            "stream",
            "ls",
            "--server",
            "127.0.0.1:1,[::1]:2",
            "-o",
            "json",
        ])
        .expect("good");
        assert_eq!(cli.output, output::Format::Json);
        let Run::Stream(Stream::Ls { server, .. }) = cli.run else {
            panic!("a list")
        };
        assert_eq!(server.server.len(), 2);
    }
}
