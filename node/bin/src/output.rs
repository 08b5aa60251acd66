//! What commands print: tables for people, JSON for programs, and progress on a terminal. A reader that goes away
//! (`| head`) ends the program quietly and with success: it has what it wanted.

use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON value per line for programs.
    Json,
}

/// Standard output, buffered.
#[derive(Debug)]
pub(crate) struct Output {
    out: io::BufWriter<io::Stdout>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            out: io::BufWriter::with_capacity(64 * 1024, io::stdout()),
        }
    }

    /// Prints bytes and a line end.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) -> Result<(), Failure> {
        let written = self
            .out
            .write_all(line.as_ref())
            .and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|error| unwritable(&error))
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        match serde_json::to_string(value) {
            Ok(line) => self.line(line),
            Err(error) => Err(Failure::new(
                Exit::Failed,
                format!("a result is no JSON: {error}"),
            )),
        }
    }

    /// Brings everything that was printed to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| unwritable(&error))
    }
}

fn unwritable(error: &io::Error) -> Failure {
    let exit = if error.kind() == ErrorKind::BrokenPipe {
        Exit::Done
    } else {
        Exit::Failed
    };
    Failure::new(exit, format!("cannot write to standard output: {error}"))
}

/// Aligned columns. Numbers go to the right.
#[derive(Debug)]
pub(crate) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        Self {
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.heads.len(), "a cell for each column");
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, the heads first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.heads[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        let is_number = |cell: &str| {
            cell.starts_with(|first: char| first.is_ascii_digit())
                && !cell.contains([':', 'T', '/'])
        };
        let to_right: Vec<bool> = (0..widths.len())
            .map(|column| self.rows.iter().all(|row| is_number(&row[column])))
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells
                .zip(&widths)
                .zip(&to_right)
                .map(|((cell, width), to_right)| match to_right {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut lines = vec![line(&mut self.heads.iter().copied())];
        lines.extend(
            self.rows
                .iter()
                .map(|row| line(&mut row.iter().map(String::as_str))),
        );
        lines
    }
}

/// Bytes as text for people: UTF-8 as it is, with what would move a terminal's cursor escaped; the rest in hexadecimal.
pub(crate) fn printable(bytes: &[u8]) -> String {
    match core::str::from_utf8(bytes) {
        Ok(text) => text.chars().flat_map(Escaped::of).collect(),
        Err(_) => {
            let mut shown = String::from("0x");
            for byte in bytes {
                shown.push_str(&format!("{byte:02x}"));
            }
            shown
        }
    }
}

/// One character, or the two to eight that stand for it.
enum Escaped {
    Plain(core::iter::Once<char>),
    Control(core::char::EscapeDefault),
}

impl Escaped {
    fn of(letter: char) -> Self {
        if letter.is_control() {
            Self::Control(letter.escape_default())
        } else {
            Self::Plain(core::iter::once(letter))
        }
    }
}

impl Iterator for Escaped {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        match self {
            Self::Plain(letter) => letter.next(),
            Self::Control(letters) => letters.next(),
        }
    }
}

/// A line on standard error that is overwritten as work goes on. Silent when nobody watches a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
    total: Option<u64>,
    begun: Instant,
    drawn: Option<Instant>,
}

/// Columns of a terminal that does not say how wide it is.
const COLUMNS_USUAL: usize = 80;

impl Progress {
    const REDRAW_EVERY: Duration = Duration::from_millis(100);

    /// Progress towards `total` units, when that is known.
    pub(crate) fn new(total: Option<u64>) -> Self {
        Self {
            is_shown: io::stderr().is_terminal(),
            total,
            begun: Instant::now(),
            drawn: None,
        }
    }

    /// Progress that is not shown: a person types where it would be drawn.
    pub(crate) fn hidden() -> Self {
        Self {
            is_shown: false,
            ..Self::new(None)
        }
    }

    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Begins again, towards another total.
    pub(crate) fn begin(&mut self, total: Option<u64>) {
        self.clear();
        self.total = total;
        self.begun = Instant::now();
    }

    /// Says how far the work is. Draws rarely, so it may be called often.
    pub(crate) fn at(&mut self, done: u64, words: impl FnOnce(Duration) -> String) {
        let now = Instant::now();
        let is_due = self
            .drawn
            .is_none_or(|drawn| now.duration_since(drawn) >= Self::REDRAW_EVERY);
        if !self.is_shown || !is_due {
            return;
        }
        self.drawn = Some(now);
        let words = words(now.duration_since(self.begun));
        self.draw(&live_line(
            self.total.map(|total| (done, total)),
            &words,
            columns(),
        ));
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            self.draw("");
        }
    }

    fn draw(&self, line: &str) {
        // Nothing is lost when standard error is gone.
        drop(write!(io::stderr(), "\r\x1b[2K{line}"));
    }
}

/// How wide the terminal is now: a person may have changed it since the last line.
fn columns() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(COLUMNS_USUAL)
}

/// A line that stays on its row: one that wraps could not be overwritten, and would leave a row behind each time. The bar
/// takes what the words leave, and where that is too little the words are cut. The last columns stay free: a terminal prints
/// the ^C of a person there, and some wrap when the very last one is written.
fn live_line(share: Option<(u64, u64)>, words: &str, columns: usize) -> String {
    const BAR_MAX: usize = 24;
    const FREE: usize = "^C".len() + 1;
    let room = columns.saturating_sub(FREE);
    let bar = share.map_or_else(String::new, |(done, total)| {
        let around = bar(done, total, 0).chars().count();
        let width = room.saturating_sub(around + words.chars().count());
        bar(done, total, width.min(BAR_MAX) as u64)
    });
    format!("{bar}{words}").chars().take(room).collect()
}

fn bar(done: u64, total: u64, width: u64) -> String {
    let share = u128::from(done.min(total)) * u128::from(width) / u128::from(total.max(1));
    let filled = usize::try_from(share).unwrap_or(0);
    let open = usize::try_from(width).unwrap_or(0) - filled;
    let percent = u128::from(done.min(total)) * 100 / u128::from(total.max(1));
    format!(
        "[{}{}] {percent:>3} %  ",
        "=".repeat(filled),
        " ".repeat(open)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_go_right() {
        let mut table = Table::new(&["PATH", "PARTITIONS"]);
        table.row(vec!["shop/orders".to_owned(), "16".to_owned()]);
        table.row(vec!["a".to_owned(), "4".to_owned()]);
        assert_eq!(
            table.lines(),
            [
                "PATH         PARTITIONS",
                "shop/orders          16",
                "a                     4"
            ]
        );
    }

    #[test]
    fn what_would_move_the_cursor_is_escaped() {
        assert_eq!(
            printable("Zürich\x1b[2J\n".as_bytes()),
            "Zürich\\u{1b}[2J\\n"
        );
        assert_eq!(printable(b"\xff\x00"), "0xff00");
        assert_eq!(printable(b""), "");
    }

    #[test]
    fn a_bar_is_full_at_the_end_and_not_before() {
        assert_eq!(bar(0, 10, 4), "[    ]   0 %  ");
        assert_eq!(bar(5, 10, 4), "[==  ]  50 %  ");
        assert_eq!(bar(10, 10, 4), "[====] 100 %  ");
        assert_eq!(bar(0, 0, 4), "[    ]   0 %  ");
    }

    #[test]
    fn a_live_line_never_wraps() {
        let words = "throughput: 500,000 delivered and verified";
        let around = bar(999, 1000, 0).len();
        for columns in 0..200 {
            let line = live_line(Some((999, 1000)), words, columns);
            let room = columns.saturating_sub(3);
            assert!(line.chars().count() <= room, "{columns}: {line}");
            assert_eq!(
                line.ends_with(words),
                room >= around + words.len(),
                "{line}"
            );
            assert!(live_line(None, words, columns).len() <= room);
        }
        let wide = live_line(Some((1, 2)), "x", 200);
        assert_eq!(wide, format!("{}x", bar(1, 2, 24)));
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        assert_eq!(unwritable(&ErrorKind::BrokenPipe.into()).exit, Exit::Done);
        assert_eq!(
            unwritable(&ErrorKind::StorageFull.into()).exit,
            Exit::Failed
        );
    }
}
