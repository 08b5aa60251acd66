//! The configuration of a node: which value counts when several places give one, what each may be, and a message that
//! names the place for each way it can be wrong. A flag beats the environment, that beats the file, that beats the
//! default. Checked whole before anything is opened; nothing is clamped in silence.

pub(crate) mod file;
pub(crate) mod keys;
pub(crate) mod suggest;

use crate::exit::{Exit, Failure};
use crate::units;
use core::fmt;
use file::FileValues;
use keys::{KEYS, place_of};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiderace_base::catalogue::Durability;
use tiderace_base::ids::NodeId;
use tiderace_base::limits;

/// Variables that mean something to the program without being keys of the configuration.
const OTHER_VARIABLES: [&str; 2] = ["TIDERACE_CONFIG", "TIDERACE_SERVER"];

/// No upper bound but what the host has.
const UNBOUNDED: u64 = usize::MAX as u64;

/// How logs are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// The files that TLS takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// How the node is linked to others of its zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Peers {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    /// Whom to ask to be let in.
    pub(crate) join: Vec<(NodeId, SocketAddr)>,
    pub(crate) founds: bool,
}

/// A checked configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    /// `None`: as many as the directory has, or one per core at its first start.
    pub(crate) shards: Option<u16>,
    pub(crate) listen: SocketAddr,
    pub(crate) shard_listen: SocketAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) tls: Option<Tls>,
    pub(crate) peers: Option<Peers>,
    pub(crate) admin_listen: SocketAddr,
    /// `None`: in proportion to the shards.
    pub(crate) memory_bytes: Option<usize>,
    pub(crate) segment_bytes: u64,
    /// Whether somebody asked for this segment size, so that a directory with another one is an error.
    pub(crate) is_segment_asked: bool,
    pub(crate) prewrite_bytes: u64,
    pub(crate) durability: Durability,
    pub(crate) pin: bool,
    pub(crate) busy_poll: Duration,
    /// Bytes of each journal read in a second in search of damage; 0: none.
    pub(crate) scrub_bytes_per_second: u64,
    pub(crate) drain_timeout: Duration,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Source {
    Flag,
    Variable,
    File { name: String, line: usize },
    Default,
}

/// The value that counts for one key, and where it stands.
#[derive(Clone, Debug)]
struct Given {
    text: String,
    source: Source,
}

/// Every key's value, before it has its type.
#[derive(Clone, Debug)]
pub(crate) struct Settings([Given; KEYS.len()]);

/// What the command line gives: one text per key.
pub(crate) type FlagValues = [Option<String>; KEYS.len()];

impl Settings {
    /// Takes for each key the first of flag, variable, file and default.
    pub(crate) fn resolve(
        flags: &FlagValues,
        variable: impl Fn(&str) -> Option<String>,
        file: Option<(&Path, &FileValues)>,
    ) -> Self {
        Self(core::array::from_fn(|place| {
            let key = &KEYS[place];
            let from_file = || {
                let (path, values) = file?;
                let (text, line) = values[place].clone()?;
                let name = path.display().to_string();
                Some(Given {
                    text,
                    source: Source::File { name, line },
                })
            };
            let from_flag = flags[place].clone().map(|text| Given {
                text,
                source: Source::Flag,
            });
            from_flag
                .or_else(|| {
                    variable(&key.variable()).map(|text| Given {
                        text,
                        source: Source::Variable,
                    })
                })
                .or_else(from_file)
                .unwrap_or_else(|| Given {
                    text: key.default.to_owned(),
                    source: Source::Default,
                })
        }))
    }

    fn given(&self, name: &str) -> (usize, &Given) {
        let place = place_of(name).unwrap_or_else(|| panic!("no key is called {name}"));
        (place, &self.0[place])
    }

    /// The file that configures these settings again, each line with where its value comes from.
    pub(crate) fn print(&self) -> String {
        let mut shown = String::from(
            "# What counts, and where it comes from: flag > environment > file > default.\n",
        );
        for (key, given) in KEYS.iter().zip(&self.0) {
            let is_bare = !key.is_quoted && matches!(given.text.as_str(), "true" | "false");
            let value = if is_bare {
                given.text.clone()
            } else {
                toml::Value::from(given.text.as_str()).to_string()
            };
            let assignment = format!("{} = {value}", key.name);
            shown.push_str(&format!("{assignment:<42} # {}\n", self.whence(key.name)));
        }
        shown
    }

    /// Where a key's value stands, as people look for it.
    fn whence(&self, name: &str) -> String {
        let (place, given) = self.given(name);
        match &given.source {
            Source::Flag => format!("flag --{}", KEYS[place].flag()),
            Source::Variable => format!("environment {}", KEYS[place].variable()),
            Source::File { name, line } => format!("{name}:{line}"),
            Source::Default => "default".to_owned(),
        }
    }

    fn wrong(&self, name: &str, why: impl fmt::Display) -> Failure {
        let (place, given) = self.given(name);
        let what = format!("{}: {name} = {:?} {why}", self.whence(name), given.text);
        Failure::new(Exit::Config, what).hint(format!("{name}: {}", KEYS[place].help))
    }

    fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, Failure> {
        let (_, given) = self.given(name);
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == given.text) {
            return Ok(*choice);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let meant = suggest::closest(&given.text, words.iter().copied());
        let meant = meant
            .map(|word| format!("; did you mean {word:?}?"))
            .unwrap_or_default();
        Err(self.wrong(name, format!("is none of {}{meant}", words.join(", "))))
    }

    fn address(&self, name: &str) -> Result<SocketAddr, Failure> {
        let (_, given) = self.given(name);
        given.text.parse().map_err(|_| {
            self.wrong(
                name,
                "is no address: write IP:PORT, such as 127.0.0.1:7450 or [::1]:7450",
            )
        })
    }

    fn bytes(&self, name: &str, least: u64, most: u64) -> Result<u64, Failure> {
        let (_, given) = self.given(name);
        let bytes = units::bytes(&given.text).map_err(|error| self.wrong(name, error))?;
        if (least..=most).contains(&bytes) {
            return Ok(bytes);
        }
        let least = units::show_bytes(least);
        let bounds = if most == UNBOUNDED {
            format!("at least {least}")
        } else {
            format!("{least} to {}", units::show_bytes(most))
        };
        Err(self.wrong(name, format!("is out of bounds: {bounds}")))
    }

    fn duration(&self, name: &str, least: Duration, most: Duration) -> Result<Duration, Failure> {
        let (_, given) = self.given(name);
        let duration = units::duration(&given.text).map_err(|error| self.wrong(name, error))?;
        if (least..=most).contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (units::show_duration(least), units::show_duration(most));
        Err(self.wrong(name, format!("is out of bounds: {least} to {most}")))
    }

    /// Gives every value its type and checks its bounds.
    pub(crate) fn check(&self) -> Result<Config, Failure> {
        let is_auto = |name| self.given(name).1.text == "auto";
        let data_dir = PathBuf::from(&self.given("data_dir").1.text);
        if data_dir.as_os_str().is_empty() {
            return Err(self.wrong("data_dir", "is empty"));
        }
        let shards = if is_auto("shards") {
            None
        } else {
            Some(self.shards()?)
        };
        let listen = self.address("listen")?;
        let shard_listen = self.address("shard_listen")?;
        let last_shard = shards.unwrap_or(1).saturating_sub(1);
        if shard_listen.port() != 0 && shard_listen.port().checked_add(last_shard).is_none() {
            return Err(self.wrong(
                "shard_listen",
                "leaves no room for the other shards' ports above it",
            ));
        }
        let memory_bytes = if is_auto("memory") {
            None
        } else {
            let least = limits::SHARD_MEMORY_BYTES_MIN as u64 * u64::from(shards.unwrap_or(1));
            usize::try_from(self.bytes("memory", least, UNBOUNDED)?).ok()
        };
        let segment_bytes =
            self.bytes("segment", 4 * limits::MIB as u64, limits::SEGMENT_BYTES_MAX)?;
        if !segment_bytes.is_multiple_of(limits::BLOCK_BYTES as u64) {
            return Err(self.wrong("segment", "is not in whole steps of 4KiB"));
        }
        let most = (limits::SPARES_MAX as u64 - 2) * segment_bytes;
        let prewrite_bytes = if is_auto("prewrite") {
            segment_bytes
        } else {
            self.bytes("prewrite", 0, most)?
        };
        if self.given("durability").1.text == Durability::Quorum.name() {
            return Err(self.wrong(
                "durability",
                "needs three nodes or more, and this version runs one: take local",
            ));
        }
        let levels = [
            (Durability::Memory.name(), Durability::Memory),
            (Durability::Local.name(), Durability::Local),
        ];
        self.check_log_level()?;
        let advertise = self.told_ip("advertise", "listen", listen)?;
        Ok(Config {
            data_dir,
            shards,
            listen,
            shard_listen,
            advertise,
            tls: self.tls()?,
            peers: self.peers()?,
            admin_listen: self.address("admin_listen")?,
            memory_bytes,
            segment_bytes,
            prewrite_bytes,
            is_segment_asked: self.given("segment").1.source != Source::Default,
            durability: self.one_of("durability", &levels)?,
            pin: self.one_of("pin", &[("true", true), ("false", false)])?,
            busy_poll: self.duration("busy_poll", Duration::ZERO, Duration::from_millis(10))?,
            scrub_bytes_per_second: if self.given("scrub").1.text == "0" {
                0
            } else {
                self.bytes("scrub", 64 * limits::KIB as u64, 4096 * limits::MIB as u64)?
            },
            drain_timeout: self.duration(
                "drain_timeout",
                Duration::from_secs(1),
                Duration::from_secs(3600),
            )?,
            log_level: self.given("log_level").1.text.clone(),
            log_format: self.one_of(
                "log_format",
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            )?,
        })
    }

    /// A bare word must be a level. The filter would take any other for a module's name and say nothing but its logs.
    fn check_log_level(&self) -> Result<(), Failure> {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        let text = &self.given("log_level").1.text;
        for word in text.split(',').filter(|word| !word.contains('=')) {
            if LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
                continue;
            }
            let meant = suggest::closest(word, LEVELS);
            let meant = meant
                .map(|level| format!("; did you mean {level:?}?"))
                .unwrap_or_default();
            let why = format!(
                "is no level: {word:?} is none of {}, and a module has its level behind it, such as tiderace=debug{meant}",
                LEVELS.join(", ")
            );
            return Err(self.wrong("log_level", why));
        }
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.wrong("log_level", format!("is no level: {error}"))),
        }
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let file = |name| {
            let text = &self.given(name).1.text;
            (!text.is_empty()).then(|| PathBuf::from(text))
        };
        let client_ca = file("tls_client_ca");
        match (file("tls_cert"), file("tls_key")) {
            (Some(cert), Some(key)) => Ok(Some(Tls {
                cert,
                key,
                client_ca,
            })),
            (None, None) if client_ca.is_none() => Ok(None),
            (None, _) => Err(self.wrong(
                "tls_cert",
                "is missing: tls_key and tls_client_ca mean nothing without it",
            )),
            (Some(_), None) => Err(self.wrong("tls_key", "is missing: tls_cert needs its key")),
        }
    }

    fn peers(&self) -> Result<Option<Peers>, Failure> {
        const TOGETHER: [&str; 4] = ["peer_listen", "peer_cert", "peer_key", "peer_ca"];
        let is_given = |name: &str| !self.given(name).1.text.is_empty();
        if !TOGETHER.into_iter().any(is_given) {
            if is_given("peers") {
                let why = "means nothing without peer_listen, peer_cert, peer_key and peer_ca";
                return Err(self.wrong("peers", why));
            }
            return Ok(None);
        }
        if let Some(missing) = TOGETHER.into_iter().find(|name| !is_given(name)) {
            return Err(self.wrong(
                missing,
                "is missing: a node that is linked to others needs all of peer_listen, peer_cert, peer_key and peer_ca",
            ));
        }
        let listen = self.address("peer_listen")?;
        let file = |name| PathBuf::from(&self.given(name).1.text);
        Ok(Some(Peers {
            listen,
            advertise: self.told_ip("peer_advertise", "peer_listen", listen)?,
            cert: file("peer_cert"),
            key: file("peer_key"),
            ca: file("peer_ca"),
            join: self.nodes("peers")?,
            founds: self.one_of("found_zone", &[("true", true), ("false", false)])?,
        }))
    }

    /// Nodes with their addresses.
    fn nodes(&self, name: &str) -> Result<Vec<(NodeId, SocketAddr)>, Failure> {
        let text = &self.given(name).1.text;
        let mut nodes = Vec::new();
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let (id, address) = word.split_once('@').unwrap_or(("", word));
            let id = u64::from_str_radix(id, 16).ok().filter(|id| *id != 0);
            match (id, address.parse()) {
                (Some(id), Ok(address)) => nodes.push((NodeId::new(id), address)),
                _ => {
                    return Err(self.wrong(
                        name,
                        format!(
                            "is no list of nodes: {word:?} is not like 000000000000000b@10.0.0.2:7470"
                        ),
                    ));
                }
            }
        }
        Ok(nodes)
    }

    fn shards(&self) -> Result<u16, Failure> {
        let (_, given) = self.given("shards");
        match given.text.parse() {
            Ok(shards) if (1..=limits::SHARDS_MAX).contains(&usize::from(shards)) => Ok(shards),
            Ok(_) => Err(self.wrong(
                "shards",
                format!("is out of bounds: 1 to {}", limits::SHARDS_MAX),
            )),
            Err(_) => Err(self.wrong("shards", "is neither a number nor auto")),
        }
    }

    /// The IP that others are told to reach a listener by.
    fn told_ip(&self, name: &str, of: &str, listen: SocketAddr) -> Result<IpAddr, Failure> {
        let (_, given) = self.given(name);
        if given.text == "auto" {
            if listen.ip().is_unspecified() {
                let why = format!(
                    "cannot be told to others: set {name} to the IP by which they reach this host ({of} is {listen})"
                );
                return Err(self.wrong(of, why));
            }
            return Ok(listen.ip());
        }
        match given.text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => {
                Err(self.wrong(name, "is no address that anybody can connect to"))
            }
            Ok(ip) => Ok(ip),
            Err(_) => Err(self.wrong(name, "is neither an IP address nor auto")),
        }
    }
}

/// `TIDERACE_*` variables that mean nothing, each with the one that is probably meant. Those that orchestrators set by
/// themselves for a service of that name are left alone: TIDERACE_SERVICE_HOST, TIDERACE_PORT_7450_TCP.
pub(crate) fn unknown_variables(
    names: impl IntoIterator<Item = String>,
) -> Vec<(String, Option<String>)> {
    let known: Vec<String> = KEYS
        .iter()
        .map(keys::Key::variable)
        .chain(OTHER_VARIABLES.map(str::to_owned))
        .collect();
    let mut unknown: Vec<(String, Option<String>)> = names
        .into_iter()
        .filter(|name| !known.contains(name))
        .filter_map(|name| {
            let tail = name.strip_prefix("TIDERACE_")?;
            if is_of_a_service(tail) {
                return None;
            }
            let tails = known
                .iter()
                .filter_map(|right| right.strip_prefix("TIDERACE_"));
            let right = suggest::closest(tail, tails).map(|right| format!("TIDERACE_{right}"));
            Some((name, right))
        })
        .collect();
    unknown.sort();
    unknown
}

/// Whether a name is one that Kubernetes or Docker makes of a service's name, here without its first word.
fn is_of_a_service(tail: &str) -> bool {
    let words: Vec<&str> = tail.split('_').collect();
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    words
        .windows(2)
        .any(|pair| pair[0] == "SERVICE" && matches!(pair[1], "HOST" | "PORT"))
        || words.last() == Some(&"PORT")
        || words.windows(3).any(|three| {
            three[0] == "PORT" && is_number(&three[1]) && matches!(three[2], "TCP" | "UDP")
        })
}

#[cfg(test)]
mod tests;
