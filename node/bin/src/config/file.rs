//! The configuration file: flat TOML. Refuses what it does not know, and names the line, because a key that is silently
//! ignored is found at three in the morning.

use super::keys::{KEYS, place_of};
use super::suggest::closest;
use crate::exit::{Exit, Failure};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// What a file says: for each key of the table its text and its line.
pub(crate) type FileValues = [Option<(String, usize)>; KEYS.len()];

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<FileValues, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Exit::Config,
            format!(
                "cannot read the configuration file {}: {error}",
                path.display()
            ),
        )
        .hint("check the path given with --config or TIDERACE_CONFIG, and who may read it")
    })?;
    parse(&text, &path.display().to_string())
}

/// Reads the text of a file that people know as `name`.
pub(crate) fn parse(text: &str, name: &str) -> Result<FileValues, Failure> {
    let mut values = FileValues::default();
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        Failure::new(Exit::Config, format!("{name}:{line}: {}", error.message()))
            .hint("the file is TOML: one `key = value` per line, text in double quotes; see docs/config.toml")
    })?;
    for (key, value) in table.get_ref() {
        let line = line_of(text, key.span().start);
        let key: &str = key.get_ref();
        let Some(place) = place_of(key) else {
            return Err(unknown_key(name, line, key, value.get_ref()));
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', ""),
            DeValue::Boolean(flag) => flag.to_string(),
            other => {
                let what = format!(
                    "{name}:{line}: {key} must be one value, not of type {}",
                    other.type_str()
                );
                return Err(
                    Failure::new(Exit::Config, what).hint(format!("{key}: {}", KEYS[place].help))
                );
            }
        };
        values[place] = Some((text, line));
    }
    Ok(values)
}

fn unknown_key(name: &str, line: usize, key: &str, value: &DeValue<'_>) -> Failure {
    if let DeValue::Table(_) = value
        && closest(key, KEYS.iter().map(|key| key.name)).is_none()
    {
        return Failure::new(
            Exit::Config,
            format!("{name}:{line}: unknown table [{key}]"),
        )
        .hint("every key stands at the top level; see docs/config.toml");
    }
    let failure = Failure::new(Exit::Config, format!("{name}:{line}: unknown key {key:?}"));
    match closest(key, KEYS.iter().map(|key| key.name)) {
        Some(right) => failure.hint(format!("did you mean {right:?}?")),
        None => {
            let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            failure.hint(format!("the keys are {}", known.join(", ")))
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(at)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse(text, "tiderace.toml")
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn scalars_of_any_kind_are_taken_as_text() {
        let values = parse(
            "shards = 1_6\npin = false\n# words\nmemory = \"1GiB\"\n",
            "f",
        )
        .expect("a good file");
        let at = |name| values[place_of(name).expect("a key")].clone();
        assert_eq!(at("shards"), Some(("16".to_owned(), 1)));
        assert_eq!(at("pin"), Some(("false".to_owned(), 2)));
        assert_eq!(at("memory"), Some(("1GiB".to_owned(), 4)));
        assert_eq!(at("listen"), None);
    }

    #[test]
    fn a_typo_is_named_with_its_line_and_the_right_key() {
        let typo = message("# my node\nshards = 2\nmemroy = \"1GiB\"\n");
        assert_eq!(
            typo,
            "tiderace.toml:3: unknown key \"memroy\"\n  what to do: did you mean \"memory\"?"
        );
        assert!(message("data-dir = \"x\"").contains("did you mean \"data_dir\"?"));
        assert!(message("replicas = 3").contains("the keys are data_dir, shards, listen"));
    }

    #[test]
    fn tables_lists_and_broken_toml_are_named_with_their_line() {
        assert!(
            message("\n[storage]\nsegment = \"1MiB\"")
                .starts_with("tiderace.toml:2: unknown table [storage]")
        );
        assert!(
            message("listen = [\"a\", \"b\"]")
                .starts_with("tiderace.toml:1: listen must be one value, not of type array")
        );
        assert!(message("pin = true\nlisten = 127.0.0.1:7450\n").starts_with("tiderace.toml:2: "));
        assert!(message("pin = true\npin = false\n").starts_with("tiderace.toml:2: "));
    }
}
