//! Precedence, bounds and messages of the configuration, and the example file that people copy.

use super::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.toml");

fn flags(given: &[(&str, &str)]) -> FlagValues {
    let mut values = FlagValues::default();
    for (name, text) in given {
        values[place_of(name).expect("a key")] = Some((*text).to_owned());
    }
    values
}

fn settings(given: &[(&str, &str)]) -> Settings {
    Settings::resolve(&flags(given), |_| None, None)
}

fn message(name: &str, text: &str) -> String {
    let failure = settings(&[(name, text)]).check().expect_err("refused");
    assert_eq!(failure.exit, Exit::Config);
    failure.to_string()
}

#[test]
fn the_defaults_are_a_good_configuration() {
    let config = settings(&[]).check().expect("the defaults");
    assert_eq!(config.listen.to_string(), "127.0.0.1:7450");
    assert_eq!(config.shard_listen.to_string(), "127.0.0.1:7460");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:7440");
    assert_eq!((config.shards, config.memory_bytes), (None, None));
    assert_eq!(config.segment_bytes, limits::SEGMENT_BYTES_DEFAULT);
    assert_eq!(config.durability, Durability::Local);
    assert!(config.pin && !config.is_segment_asked);
    assert!(config.busy_poll.is_zero());
    assert_eq!(
        config.scrub_bytes_per_second,
        limits::SCRUB_BYTES_PER_SECOND_DEFAULT
    );
}

#[test]
fn a_flag_beats_the_environment_that_beats_the_file_that_beats_the_default() {
    let file = file::parse(
        "memory = \"1GiB\"\nshards = 2\nsegment = \"64MiB\"\n",
        "t.toml",
    )
    .expect("a good file");
    let variable = |name: &str| match name {
        "TIDERACE_MEMORY" => Some("2GiB".to_owned()),
        "TIDERACE_SHARDS" => Some("3".to_owned()),
        _ => None,
    };
    let given = flags(&[("memory", "3GiB")]);
    let settings = Settings::resolve(&given, variable, Some((Path::new("t.toml"), &file)));
    let config = settings.check().expect("good values");
    assert_eq!(config.memory_bytes, Some(3 << 30));
    assert_eq!(config.shards, Some(3));
    assert_eq!(config.segment_bytes, 64 << 20);
    assert!(config.is_segment_asked && config.pin);
    assert_eq!(settings.whence("memory"), "flag --memory");
    assert_eq!(settings.whence("shards"), "environment TIDERACE_SHARDS");
    assert_eq!(settings.whence("segment"), "t.toml:3");
    assert_eq!(settings.whence("pin"), "default");
}

#[test]
fn what_is_printed_configures_the_same_again() {
    let before = settings(&[
        ("data_dir", "a \"quoted\" \\ dir"),
        ("pin", "false"),
        ("shards", "4"),
        ("log_level", "debug"),
    ]);
    let printed = before.print();
    let again = file::parse(&printed, "printed").expect("what was printed is a file");
    let after = Settings::resolve(
        &FlagValues::default(),
        |_| None,
        Some((Path::new("printed"), &again)),
    );
    let (before, after) = (before.check().expect("good"), after.check().expect("good"));
    // Printing makes every default an explicit value.
    assert_eq!(
        Config {
            is_segment_asked: true,
            ..before
        },
        after
    );
    assert!(printed.contains("# flag --data-dir") && printed.contains("# default"));
}

#[test]
fn each_wrong_value_is_named_with_its_place_and_its_bounds() {
    for (name, text, why) in [
        ("data_dir", "", "is empty"),
        ("shards", "0", "1 to 256"),
        ("shards", "257", "1 to 256"),
        ("shards", "many", "neither a number nor auto"),
        ("listen", "localhost", "write IP:PORT"),
        ("listen", "0.0.0.0:7450", "set advertise"),
        (
            "advertise",
            "0.0.0.0",
            "no address that anybody can connect to",
        ),
        ("advertise", "host", "neither an IP address nor auto"),
        ("memory", "1MiB", "out of bounds: at least 24MiB"),
        ("memory", "lots", "begin with a digit"),
        ("segment", "1MiB", "out of bounds: 4MiB to 2GiB"),
        ("segment", "3GiB", "out of bounds: 4MiB to 2GiB"),
        ("segment", "5000001", "whole steps of 4KiB"),
        ("durability", "quorum", "needs three nodes"),
        ("durability", "locla", "did you mean \"local\"?"),
        ("pin", "yes", "is none of true, false"),
        ("busy_poll", "1s", "out of bounds: 0s to 10ms"),
        ("busy_poll", "50", "has no unit"),
        ("scrub", "1KiB", "out of bounds: 64KiB to 4GiB"),
        ("drain_timeout", "10", "has no unit"),
        ("drain_timeout", "7d", "out of bounds: 1s to 1h"),
        ("log_level", "tiderace=loud", "is no level"),
        (
            "log_level",
            "loud",
            "none of error, warn, info, debug, trace, off",
        ),
        ("log_level", "warn,tiderace", "a module has its level"),
        ("log_level", "debgu", "did you mean \"debug\"?"),
        ("log_level", "", "is no level"),
        ("log_format", "jsno", "did you mean \"json\"?"),
    ] {
        let message = message(name, text);
        let place = if name == "listen" {
            "flag --listen".to_owned()
        } else {
            format!("flag --{}", name.replace('_', "-"))
        };
        assert!(message.starts_with(&place), "{message}");
        assert!(message.contains(why), "{name} = {text}: {message}");
    }
    let crowded = settings(&[("shards", "100"), ("shard_listen", "127.0.0.1:65500")]).check();
    assert!(
        crowded
            .expect_err("refused")
            .to_string()
            .contains("no room for the other shards")
    );
}

#[test]
fn levels_are_taken_in_any_case_and_by_module() {
    for text in ["off", "INFO", "warn,tiderace=debug", "info,[turn]=debug"] {
        assert!(settings(&[("log_level", text)]).check().is_ok(), "{text}");
    }
}

#[test]
fn a_variable_that_means_nothing_is_noticed_and_those_of_a_service_are_left_alone() {
    let names = [
        "TIDERACE_MEMROY",
        "TIDERACE_MEMORY",
        "TIDERACE_CONFIG",
        "TIDERACE_REPLICATION_FACTOR",
        "TIDERACE_PORT",
        "TIDERACE_PORT_7450_TCP",
        "TIDERACE_PORT_7450_TCP_ADDR",
        "TIDERACE_SERVICE_HOST",
        "TIDERACE_ADMIN_SERVICE_PORT_HTTP",
        "HOME",
    ];
    let found = unknown_variables(names.map(str::to_owned));
    assert_eq!(
        found,
        [
            (
                "TIDERACE_MEMROY".to_owned(),
                Some("TIDERACE_MEMORY".to_owned())
            ),
            ("TIDERACE_REPLICATION_FACTOR".to_owned(), None),
        ]
    );
}

#[test]
fn the_example_file_names_every_key_with_its_default() {
    let text = std::fs::read_to_string(EXAMPLE).expect("docs/config.toml");
    let values = file::parse(&text, "docs/config.toml").expect("the example parses");
    for (key, value) in KEYS.iter().zip(&values) {
        let (text, _) = value
            .as_ref()
            .unwrap_or_else(|| panic!("docs/config.toml lacks {}", key.name));
        assert_eq!(
            text, key.default,
            "docs/config.toml and the default of {} differ",
            key.name
        );
    }
}
