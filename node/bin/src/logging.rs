//! Logs: structured, to standard error, for people or for machines. Written at starts, stops and surprises; never for a
//! record, a batch or a turn.

use crate::config::{Config, LogFormat};
use tracing_subscriber::EnvFilter;

/// Begins to log as configured. Called once; a second call changes nothing.
pub(crate) fn begin(config: &Config) {
    begin_with(&config.log_level, config.log_format);
}

/// Begins to log at `level`, which the configuration has checked.
pub(crate) fn begin_with(level: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Where threads die, the log says so: an operator looks there and nowhere else.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), "{panic}");
    }));
    // An error means that this process logs already.
    drop(match format {
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(is_terminal).with_target(false).try_init()
        }
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    });
}
