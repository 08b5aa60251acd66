//! Nothing acknowledged may be lost, duplicated or reordered, whatever happens to the server. Producers with exact
//! retries send records that say who they are; a consumer reads everything back; the ledger compares. The server may be
//! killed and started again under it, as often as one likes.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | everything acknowledged was delivered exactly once, in order |
//! | 1 | something acknowledged was lost, duplicated, reordered, misplaced or damaged |
//! | 2 | wrong arguments, or the run could not begin |
//! | 3 | nothing was found wrong, but the run did not come to its end: the server was away for too long, or refused |

mod history;
mod ledger;
mod produce;
mod reader;
mod record;
mod ring;
mod verify;

use crate::cli::IntegrityArguments;
use crate::output;
use ledger::Verdict;
use serde::Serialize;
use std::process::ExitCode;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Accepted by the producers.
    pub(crate) sent: u64,
    /// Acknowledged.
    pub(crate) acked: u64,
    /// Delivered, each once.
    pub(crate) delivered: u64,
    /// Acknowledged and never delivered.
    pub(crate) lost: u64,
    /// Delivered more than once.
    pub(crate) duplicated: u64,
    /// Delivered after a later one of the same producer and partition.
    pub(crate) reordered: u64,
    /// Delivered at another offset than was acknowledged.
    pub(crate) misplaced: u64,
    /// Delivered with a content that is not what was sent.
    pub(crate) damaged: u64,
    /// Sent, but neither acknowledged nor refused for certain. No violation: nothing was promised.
    pub(crate) unknown: u64,
    /// Connections that were lost and made again.
    pub(crate) reconnects: u64,
    /// Seconds.
    pub(crate) elapsed_s: f64,
    /// Why the run did not come to its end.
    pub(crate) incomplete: Option<String>,
    /// What else was wrong, in words.
    pub(crate) violations: Vec<String>,
}

impl Report {
    pub(crate) fn verdict(&mut self, verdict: Verdict) {
        self.acked = verdict.acked;
        self.delivered = verdict.delivered;
        self.lost = verdict.lost;
        self.duplicated = verdict.duplicated;
        self.reordered = verdict.reordered;
        self.misplaced = verdict.misplaced;
    }

    fn exit_code(&self) -> u8 {
        let wrong = self.lost + self.duplicated + self.reordered + self.misplaced + self.damaged;
        if wrong > 0 || !self.violations.is_empty() {
            1
        } else if self.incomplete.is_some() || self.unknown > 0 {
            3
        } else {
            0
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![format!(
            "{} sent, {} acknowledged, {} delivered in {:.1} s, {} reconnects: {} lost, {} duplicated, {} reordered, {} misplaced, {} damaged; {} with an unknown outcome",
            self.sent,
            self.acked,
            self.delivered,
            self.elapsed_s,
            self.reconnects,
            self.lost,
            self.duplicated,
            self.reordered,
            self.misplaced,
            self.damaged,
            self.unknown,
        )];
        lines.extend(
            self.violations
                .iter()
                .map(|what| format!("VIOLATION  {what}")),
        );
        lines.extend(
            self.incomplete
                .iter()
                .map(|why| format!("INCOMPLETE {why}")),
        );
        lines.join("\n")
    }
}

/// Carries it out.
///
/// # Errors
/// A sentence for people: the run could not begin.
#[expect(clippy::print_stderr, reason = "a program speaks to its user")]
pub(crate) fn run(arguments: &IntegrityArguments) -> Result<ExitCode, String> {
    let report = match &arguments.verify_ledger {
        Some(path) => verify::run(arguments, path)?,
        None => produce::run(arguments)?,
    };
    eprintln!("{}", report.text());
    if let Some(path) = &arguments.json {
        output::json(path, &report)?;
    }
    Ok(ExitCode::from(report.exit_code()))
}
