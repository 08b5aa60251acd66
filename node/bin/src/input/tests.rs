//! Inputs as people and programs really write them, whole and broken.

use super::*;
use std::io::BufReader;

fn read(
    format: Format,
    key: Option<&str>,
    text: &[u8],
) -> Result<Vec<(Option<String>, String)>, InputError> {
    // A buffer of three bytes puts a border inside everything.
    let mut reader = Reader::new(
        BufReader::with_capacity(3, text),
        format,
        key.map(str::to_owned),
    );
    let mut records = Vec::new();
    let text_of = |bytes| String::from_utf8(bytes).expect("text");
    while let Some(Parsed { key, value }) = reader.next()? {
        records.push((key.map(text_of), text_of(value)));
    }
    assert_eq!(reader.bytes_read(), text.len() as u64);
    Ok(records)
}

fn values(format: Format, text: &str) -> Vec<String> {
    read(format, None, text.as_bytes())
        .expect("good input")
        .into_iter()
        .map(|(_, value)| value)
        .collect()
}

fn error(format: Format, key: Option<&str>, text: &[u8]) -> (u64, String) {
    let error = read(format, key, text).expect_err("refused");
    (error.line, error.why)
}

#[test]
fn every_line_is_a_record_with_or_without_a_last_line_end() {
    assert_eq!(
        values(Format::Lines, "a\nb\r\n\nlast"),
        ["a", "b", "", "last"]
    );
    assert_eq!(values(Format::Lines, "a\n"), ["a"]);
    assert_eq!(values(Format::Lines, ""), Vec::<String>::new());
    let raw = read(Format::Lines, None, b"\x00\t \"\n").expect("any bytes");
    assert_eq!(raw, [(None, "\u{0}\t \"".to_owned())]);
}

#[test]
fn json_lines_are_checked_and_kept_as_they_are() {
    assert_eq!(
        values(Format::Ndjson, "{\"a\": 1}\r\n\n  \n[1,2]\n7"),
        ["{\"a\": 1}", "[1,2]", "7"]
    );
    let (line, why) = error(Format::Ndjson, None, b"{}\n{\"a\":}\n");
    assert_eq!(line, 2);
    assert!(
        why.starts_with("it is no JSON: expected value (column "),
        "{why}"
    );
    assert_eq!(error(Format::Ndjson, None, b"{} {}\n").0, 1);
    assert_eq!(error(Format::Ndjson, None, b"\n\n{\"a\":\"\xff\"}\n").0, 3);
}

#[test]
fn a_json_field_is_the_key() {
    let text = b"{\"id\":\"x\"}\n{\"id\":7}\n{\"id\":true}\n{\"id\":\"\"}\n";
    let keys: Vec<_> = read(Format::Ndjson, Some("id"), text)
        .expect("good")
        .into_iter()
        .map(|(key, _)| key.expect("a key"))
        .collect();
    assert_eq!(keys, ["x", "7", "true", ""]);
    for (text, why) in [
        ("{\"a\":1}", "no field \"id\""),
        ("{\"id\":null}", "no text, number or boolean"),
        ("{\"id\":[1]}", "no text, number or boolean"),
        ("[1]", "no JSON object"),
    ] {
        assert!(
            error(Format::Ndjson, Some("id"), text.as_bytes())
                .1
                .contains(why),
            "{text}"
        );
    }
}

#[test]
fn rows_become_objects_in_the_order_of_the_columns() {
    assert_eq!(
        values(Format::Csv, "b,a\n1,x\n2,\n"),
        [r#"{"b":"1","a":"x"}"#, r#"{"b":"2","a":""}"#]
    );
    assert_eq!(
        values(Format::Csv, "\u{feff}a\r\n1\r\n\r\n2"),
        [r#"{"a":"1"}"#, r#"{"a":"2"}"#]
    );
    assert_eq!(values(Format::Csv, "a,b\n"), Vec::<String>::new());
    assert_eq!(values(Format::Csv, ""), Vec::<String>::new());
    let keyed = read(Format::Csv, Some("a"), b"b,a\n1,x\n2,\n").expect("good");
    assert_eq!(keyed[0].0.as_deref(), Some("x"));
    assert_eq!(keyed[1].0.as_deref(), Some(""));
}

#[test]
fn quoted_fields_hold_commas_quotes_and_line_ends() {
    let text = "name,\"quote \"\"d\"\" column\"\n\"Sand, George\",\"she said \"\"no\"\"\"\n\"two\r\nlines\",\"\"\n";
    assert_eq!(
        values(Format::Csv, text),
        [
            r#"{"name":"Sand, George","quote \"d\" column":"she said \"no\""}"#,
            r#"{"name":"two\r\nlines","quote \"d\" column":""}"#,
        ]
    );
}

#[test]
fn broken_rows_are_refused_with_their_line() {
    for (text, line, why) in [
        (
            "a,b\n1,2\n1,2,3\n",
            3,
            "it has 3 fields, and the header has 2",
        ),
        ("a,b\n1\n", 2, "it has 1 fields"),
        ("a,a\n", 1, "two columns are called"),
        ("a\nx\"y\"\n", 2, "a quote stands inside"),
        ("a\n\"x\"y\n", 2, "text follows a closing quote"),
        ("a,b\n1,2\n3,\"4\n5,6\n", 3, "never closed"),
    ] {
        let (at, said) = error(Format::Csv, None, text.as_bytes());
        assert!(
            at == line && said.contains(why),
            "{text:?}: line {at}: {said}"
        );
    }
    // A field of two lines does not move the number of those after it.
    assert_eq!(error(Format::Csv, None, b"a,b\n\"x\ny\",1\nbad\n").0, 4);
    assert!(
        error(Format::Csv, None, b"a\n\xff\n")
            .1
            .contains("no UTF-8")
    );
    let (line, why) = error(Format::Csv, Some("tailnun"), b"tailnum,dest\n");
    assert!(
        line == 1 && why.contains("did you mean \"tailnum\"?"),
        "{why}"
    );
}

#[test]
fn a_record_that_no_batch_could_carry_is_refused_before_it_is_held() {
    let largest = vec![b'x'; RECORD_BYTES_MAX];
    assert_eq!(
        read(Format::Lines, None, &largest)
            .expect("the largest")
            .len(),
        1
    );
    let endless = vec![b'x'; RECORD_BYTES_MAX + 100];
    assert!(
        error(Format::Lines, None, &endless)
            .1
            .contains("the largest record")
    );
    let mut long_key = b"a\n".to_vec();
    long_key.extend(vec![b'k'; KEY_BYTES_MAX + 1]);
    assert!(
        error(Format::Csv, Some("a"), &long_key)
            .1
            .contains("its key is longer")
    );
}

#[test]
fn a_record_knows_its_lines() {
    let text = b"a,b\n1,2\n\n\"x\ny\",3\n4,5";
    let mut reader = Reader::new(&text[..], Format::Csv, None);
    let mut lines = Vec::new();
    while reader.next().expect("good input").is_some() {
        lines.push((reader.record_line(), reader.next_line()));
    }
    assert_eq!(lines, [(2, 3), (4, 6), (6, 7)]);
}

#[test]
fn a_name_says_the_format() {
    for (name, format) in [
        ("a.csv", Format::Csv),
        ("a.ndjson", Format::Ndjson),
        ("a.jsonl", Format::Ndjson),
        ("a.log", Format::Lines),
        ("-", Format::Lines),
    ] {
        assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
    }
}
