//! `serve` and `dev`: from the command line to a node that runs until it is asked to stop.

use crate::cli::{self, CONFIG_VARIABLE, ConfigFlags};
use crate::config::keys::place_of;
use crate::config::{self, Config, FlagValues, Settings};
use crate::exit::{Exit, Failure};
use crate::logging;
use crate::output::Output;
use crate::serve;
use std::path::PathBuf;

/// Runs a node as configured.
pub(crate) fn serve(command: cli::Serve) -> Result<(), Failure> {
    let file = command
        .config
        .or_else(|| std::env::var_os(CONFIG_VARIABLE).map(PathBuf::from));
    let values = file.as_deref().map(config::file::read).transpose()?;
    let settings = Settings::resolve(
        &command.flags.0,
        variable,
        file.as_deref().zip(values.as_ref()),
    );
    let config = settings.check()?;
    if command.print_config {
        let mut output = Output::new();
        output.line(settings.print().trim_end())?;
        return output.flush();
    }
    begin(&config);
    serve::start(&config)?.wait()
}

/// Runs a node on loopback.
pub(crate) fn dev(command: cli::Dev) -> Result<(), Failure> {
    let ConfigFlags(mut flags) = command.flags;
    set(&mut flags, "data_dir", command.dir);
    let settings = Settings::resolve(&flags, variable, None);
    let config = settings.check()?;
    for (key, address) in [
        ("listen", config.listen),
        ("shard_listen", config.shard_listen),
        ("admin_listen", config.admin_listen),
    ] {
        if !address.ip().is_loopback() {
            return Err(Failure::new(
                Exit::Config,
                format!("`dev` stays on this machine, and {key} is {address}"),
            )
            .hint("take an address such as 127.0.0.1:7450, or run `tiderace serve`"));
        }
    }
    begin(&config);
    let node = serve::start(&config)?;
    node.wait_ready()?;
    let mut output = Output::new();
    output.line(format!(
        "A node for development listens on {server}. Events are kept in {dir}, each synced to the disk before it is acknowledged.\n\
         Journal files are written ahead, so it takes disk before the first event; --segment makes them smaller in a new directory.\n\
         Try, in another terminal:\n{commands}\nCtrl-C stops it.",
        server = node.server,
        dir = config.data_dir.display(),
        commands = try_next(
            "shop/orders",
            node.server,
            node.admin,
            config.tls.is_some()
        ),
    ))?;
    output.flush()?;
    node.wait()
}

/// Commands to try on a node, as they can be typed.
pub(crate) fn try_next(
    stream: &str,
    server: std::net::SocketAddr,
    admin: std::net::SocketAddr,
    speaks_tls: bool,
) -> String {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "tiderace".to_owned());
    let mut reach = String::new();
    if server.to_string() != cli::SERVER_DEFAULT {
        reach = format!(" --server {server}");
    }
    if speaks_tls {
        reach.push_str(" --tls-ca CA.pem");
    }
    let server = reach;
    [
        "  # type lines; each is an event".to_owned(),
        format!("  {program} produce {stream} --create{server}"),
        format!("  {program} tail {stream} -f{server}"),
        format!("  {program} stream ls{server}"),
        format!("  curl http://{admin}/metrics"),
    ]
    .join("\n")
}

fn begin(config: &Config) {
    logging::begin(config);
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, right) in config::unknown_variables(names) {
        let hint = right.map_or_else(
            || "`tiderace help serve` lists those that do".to_owned(),
            |right| format!("did you mean {right}?"),
        );
        tracing::warn!("the environment variable {name} means nothing; {hint}");
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Sets a key's flag unless `text` is absent.
pub(crate) fn set(flags: &mut FlagValues, name: &str, text: Option<String>) {
    if let (Some(place), Some(text)) = (place_of(name), text) {
        flags[place] = Some(text);
    }
}
