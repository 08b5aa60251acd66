//! The tables of `docs/protocol.md` are printed from the code that keeps them, so that the document cannot promise other
//! bytes than those on the wire.

use compat::{is_blessing, path, samples};
use std::fmt::Write;
use std::fs;
use tiderace_base::limits;
use tiderace_wire::FieldLayout;
use tiderace_wire::body;
use tiderace_wire::entry::{self, DropReason, EntryKind, ExpireReason, StartReason, TaskState};
use tiderace_wire::error::{ErrorCode, Retry};
use tiderace_wire::frame::tables::{PARTS, SECTIONS, Table};
use tiderace_wire::frame::{
    CreditScope, Cut, FenceReason, GapReason, GoodbyeReason, MetadataWhat, SettleOutcome,
    SubscribeFrom,
};
use tiderace_wire::link::{Batches, Direction, Kind};
use tiderace_wire::session::{Client, Phase, Server, Step};

const DOCUMENT: &str = "../../docs/protocol.md";

/// Holds what stands between the two marks against `table`; writes it there when blessing.
fn hold(name: &str, table: &str) {
    let file = path(DOCUMENT);
    let document = fs::read_to_string(&file).expect("the document is there");
    let (begin, end) = (
        format!("<!-- begin {name} -->\n"),
        format!("<!-- end {name} -->"),
    );
    let start = document.find(&begin).expect("the table has its mark") + begin.len();
    let length = document[start..].find(&end).expect("the mark ends");
    let written = &document[start..start + length];
    assert_eq!(
        written.trim(),
        table.trim(),
        "the table `{name}` is not what the code does: run with TIDERACE_BLESS=1 if the code is right"
    );
}

/// All tables, in one place: they are written to the same file, so one test does it.
fn generated() -> Vec<(&'static str, String)> {
    vec![
        ("kinds", kinds()),
        ("server", transitions(Server::step, Direction::ToNode)),
        ("client", transitions(Client::step, Direction::ToClient)),
        ("body", body_example()),
        ("entries", entries()),
        ("errors", errors()),
        (
            "sections",
            SECTIONS
                .iter()
                .map(|table| byte_table(&title(table), table))
                .collect(),
        ),
        (
            "parts",
            PARTS
                .iter()
                .map(|table| byte_table(table.name, table))
                .collect(),
        ),
        ("numbers", numbers()),
        ("limits", limits_table()),
    ]
}

#[test]
fn the_document_says_what_the_code_does() {
    if is_blessing() {
        let file = path(DOCUMENT);
        let mut document = fs::read_to_string(&file).expect("the document is there");
        for (name, table) in generated() {
            let (begin, end) = (
                format!("<!-- begin {name} -->\n"),
                format!("<!-- end {name} -->"),
            );
            let start = document.find(&begin).expect("the table has its mark") + begin.len();
            let length = document[start..].find(&end).expect("the mark ends");
            document.replace_range(start..start + length, &format!("\n{}\n\n", table.trim()));
        }
        fs::write(&file, document).expect("the document can be written");
    }
    for (name, table) in generated() {
        hold(name, &table);
    }
}

fn kinds() -> String {
    let mut out = String::from(
        "| kind | name | sent by | control bytes | batches | meaning |\n|---|---|---|---|---|---|\n",
    );
    for kind in Kind::ALL {
        let by = match kind.direction() {
            Direction::ToNode => "client",
            Direction::ToClient => "node",
            Direction::Both => "both",
            Direction::Zone => "node to node",
        };
        let (min, max) = kind.control_bounds();
        let control = if min == max {
            min.to_string()
        } else {
            format!("{min} to {max}")
        };
        let batches = match kind.batches() {
            Batches::None => "",
            Batches::One => "one",
            Batches::Some => "some",
            Batches::Any => "any",
        };
        row(
            &mut out,
            &[
                &kind.code().to_string(),
                kind.name(),
                by,
                &control,
                batches,
                kind.meaning(),
            ],
        );
    }
    out
}

fn transitions(step: fn(Phase, Kind) -> Step, own: Direction) -> String {
    let mut out =
        String::from("| kind | Handshake | Open | Draining | Closed |\n|---|---|---|---|---|\n");
    for kind in Kind::ALL {
        if kind.direction() != own && kind.direction() != Direction::Both {
            for phase in Phase::ALL {
                assert!(
                    matches!(step(phase, *kind), Step::Refuse(_)),
                    "{kind:?} comes from the other side"
                );
            }
            continue;
        }
        let cells: Vec<String> = Phase::ALL
            .iter()
            .map(|phase| match step(*phase, *kind) {
                Step::Take(next) if next == *phase => "taken".into(),
                Step::Take(next) => format!("taken, {next:?}"),
                Step::Refuse(ErrorCode::BadKind) => String::new(),
                Step::Refuse(code) => code.name().into(),
            })
            .collect();
        row(
            &mut out,
            &[kind.name(), &cells[0], &cells[1], &cells[2], &cells[3]],
        );
    }
    out
}

fn row(out: &mut String, cells: &[&str]) {
    writeln!(out, "| {} |", cells.join(" | ")).expect("a string takes what it is given");
}

fn title(table: &Table) -> String {
    let kind = Kind::ALL
        .iter()
        .find(|kind| kind.name() == table.name)
        .expect("a section belongs to a kind");
    format!("{} ({})", kind.name(), kind.code())
}

fn byte_table(title: &str, table: &Table) -> String {
    let then = table
        .then
        .map(|then| format!("\nThen {then}.\n"))
        .unwrap_or_default();
    format!("**{title}**\n\n{}{then}\n", fields(table.fields))
}

fn fields(fields: &[FieldLayout]) -> String {
    let mut out = String::from("| at | bytes | field | type | meaning |\n|---|---|---|---|---|\n");
    for field in fields {
        let number = match field.bytes {
            1 => "u8",
            2 => "u16",
            4 => "u32",
            8 => "u64",
            16 => "u128",
            bytes => panic!("{} has {bytes} bytes", field.name),
        };
        let kind = field.kind.replace(' ', "");
        let kind = if kind == number {
            kind
        } else {
            format!("{number} {kind}")
        };
        row(
            &mut out,
            &[
                &field.at.to_string(),
                &field.bytes.to_string(),
                field.name,
                &kind,
                field.meaning.trim(),
            ],
        );
        if field.reserved > 0 {
            let at = field.at + field.bytes;
            row(
                &mut out,
                &[
                    &at.to_string(),
                    &field.reserved.to_string(),
                    "reserved",
                    "",
                    "zero",
                ],
            );
        }
    }
    out
}

fn entries() -> String {
    entry::TABLES
        .iter()
        .map(|(kind, layout)| {
            let bytes = kind.body_bytes().expect("a fixed body");
            format!(
                "**{} ({})**, {bytes} bytes. {}\n\n{}\n",
                kind.name(),
                kind.code(),
                kind.meaning()
                    .split_once(": [")
                    .map_or(kind.meaning(), |(meaning, _)| meaning)
                    .trim_end_matches('.')
                    .to_owned()
                    + ".",
                fields(layout)
            )
        })
        .collect()
}

fn errors() -> String {
    let mut out = String::from("| code | name | retry | | meaning |\n|---|---|---|---|---|\n");
    for code in ErrorCode::ALL {
        let retry = match code.retry() {
            Retry::Never => "never",
            Retry::Later => "later",
            Retry::Refresh => "refresh",
            Retry::Reconnect => "reconnect",
        };
        let ends = if code.is_fatal() { "ends" } else { "" };
        row(
            &mut out,
            &[
                &code.code().to_string(),
                code.name(),
                retry,
                ends,
                code.meaning(),
            ],
        );
    }
    out
}

fn numbers() -> String {
    let mut out = String::new();
    macro_rules! list {
        ($($name:ident),*) => {$(
            writeln!(out, "**{}**\n\n| number | name | meaning |\n|---|---|---|", stringify!($name)).expect("a string takes it");
            for value in $name::ALL {
                let meaning = value.meaning().split_once(": [").map_or(value.meaning(), |(meaning, _)| meaning);
                row(&mut out, &[&value.code().to_string(), value.name(), meaning]);
            }
            out.push('\n');
        )*};
    }
    list!(
        EntryKind,
        Retry,
        GoodbyeReason,
        CreditScope,
        MetadataWhat,
        SubscribeFrom,
        GapReason,
        StartReason,
        ExpireReason,
        DropReason,
        TaskState,
        SettleOutcome,
        Cut,
        FenceReason
    );
    out
}

/// The example's bytes with what they are.
fn body_example() -> String {
    let bytes = body::encode(&samples::one_record());
    let labels: &[(usize, &str)] = &[
        (2, "the value"),
        (
            4,
            "record row: pointer -2 from here, to 0, where a key would be",
        ),
        (4, "its count: none"),
        (4, "pointer -10 from here, to 0, the value"),
        (4, "its count: 2"),
        (4, "pointer -16 from here, to 2, where header rows would be"),
        (4, "their count: none"),
        (4, "time_delta_us"),
        (1, "flags"),
        (4, "root: pointer -29 from here, to 2, the record row"),
        (4, "its count: 1"),
    ];
    let mut out = String::from("| at | bytes | what |\n|---|---|---|\n");
    let mut at = 0;
    for (length, label) in labels {
        let hex = compat::to_hex(&bytes[at..at + length]);
        row(
            &mut out,
            &[&at.to_string(), &format!("`{}`", hex.trim()), label],
        );
        at += length;
    }
    assert_eq!(at, bytes.len(), "the example is explained whole");
    out
}

/// Value from the code, reason from its documentation.
fn limits_table() -> String {
    let source =
        fs::read_to_string(path("../../base/src/limits.rs")).expect("the limits are there");
    let mut out = String::from("| limit | value | reason |\n|---|---|---|\n");
    macro_rules! limit {
        ($($name:ident),* $(,)?) => {$(
            row(&mut out, &[stringify!($name), &limits::$name.to_string(), &reason(&source, stringify!($name))]);
        )*};
    }
    limit!(
        LINK_HEADER_BYTES,
        BATCH_HEADER_BYTES,
        BODY_BYTES_MAX,
        BATCH_BYTES_MAX,
        BATCH_RECORDS_MAX,
        KEY_BYTES_MAX,
        CONTROL_BYTES_MAX,
        DELIVER_BYTES_MAX,
        FIRST_FRAME_BYTES_MAX,
        HANDSHAKE_NS_MAX,
        ACKS_PER_FRAME_MAX,
        LINK_WINDOW_BYTES,
        LINK_WINDOW_BATCHES,
        LINK_WINDOW_BYTES_MIN,
        SUBSCRIPTION_WINDOW_BYTES_MAX,
        SUBSCRIPTION_WINDOW_BATCHES_MAX,
        UNCREDITED_OUTSTANDING_MAX,
        SUBSCRIPTIONS_PER_CONNECTION_MAX,
        CONNECTIONS_PER_SHARD_MAX,
        RECEIVE_BUFFERS_HELD_MAX,
        REPLY_BYTES_MAX,
        PATH_BYTES_MAX,
        PARTITIONS_MAX,
        PRODUCER_WINDOW,
        PRODUCERS_PER_PARTITION_MAX,
        SHARDS_MAX,
    );
    out
}

fn reason(source: &str, name: &str) -> String {
    let mark = format!("pub const {name}:");
    let at = source.find(&mark).expect("the limit is there");
    let mut lines: Vec<&str> = source[..at]
        .lines()
        .rev()
        .map_while(|line| line.strip_prefix("/// "))
        .collect();
    lines.reverse();
    lines.join(" ")
}
