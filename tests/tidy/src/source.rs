//! As much of Rust's lexical grammar as the checkers need: which bytes are code, where modules are declared, which
//! regions are compiled for tests only. It never fails: on text that is not Rust it gives a less useful answer.

/// The text with comments and the insides of literals replaced by spaces. Every other byte, and every line break, keeps
/// its place, so that an index into one is an index into the other.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if !follows_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => match char_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out)
        .expect("only whole literals and comments were blanked, and they are whole characters")
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |n| from + n)
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = from;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a raw string that starts here with `r`, `br` or `cr`, if one does.
fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    if matches!(bytes[at], b'b' | b'c') {
        at += 1;
    }
    if bytes.get(at) != Some(&b'r') {
        return None;
    }
    at += 1;
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    at += hashes;
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let end = bytes[at + 1..]
        .windows(close.len())
        .position(|window| window == close);
    Some(end.map_or(bytes.len(), |n| at + 1 + n + close.len()))
}

/// The end of a character literal that starts here, or nothing when this quote starts a lifetime.
fn char_end(bytes: &[u8], from: usize) -> Option<usize> {
    match bytes.get(from + 1)? {
        b'\\' => {
            let close = bytes
                .get(from + 3..)?
                .iter()
                .take(12)
                .position(|byte| *byte == b'\'')?;
            Some(from + 3 + close + 1)
        }
        first => {
            let width = match first {
                0x00..=0x7f => 1,
                0x80..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xff => 4,
            };
            (bytes.get(from + 1 + width) == Some(&b'\'')).then_some(from + width + 2)
        }
    }
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes[at - 1])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `needle` stands by itself: no letter, digit or underscore touches it.
pub fn word_positions<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    text.match_indices(needle)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = needle.as_bytes().first().is_some_and(|byte| is_word(*byte))
                && follows_word(bytes, *at);
            let after = needle.as_bytes().last().is_some_and(|byte| is_word(*byte))
                && bytes
                    .get(at + needle.len())
                    .is_some_and(|byte| is_word(*byte));
            !before && !after
        })
}

/// The line of a position, counted from one.
pub fn line_of(text: &str, position: usize) -> usize {
    text.as_bytes()[..position]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// A module named in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, without `r#`.
    pub name: String,
    /// Inline modules around it, outermost first.
    pub within: Vec<String>,
    /// `#[path = ".."]` on it.
    pub path: Option<String>,
    /// Has its body here rather than in a file of its own.
    pub inline: bool,
    /// Where its name stands.
    pub position: usize,
}

/// The modules that a file declares.
pub fn modules(text: &str) -> Vec<Module> {
    let code = code_only(text);
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    // (depth at which the module's body opened, its name)
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if open.last().is_some_and(|(opened, _)| *opened == depth) {
                    open.pop();
                }
            }
            b'm' if bytes[at..].starts_with(b"mod ") && !follows_word(bytes, at) => {
                let rest = code[at + 4..].trim_start();
                let start = code.len() - rest.len();
                let rest = rest.strip_prefix("r#").unwrap_or(rest);
                let name: String = rest
                    .chars()
                    .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                    .collect();
                let after = rest[name.len()..].trim_start();
                let inline = after.starts_with('{');
                if !name.is_empty() && (inline || after.starts_with(';')) {
                    found.push(Module {
                        name: name.clone(),
                        within: open.iter().map(|(_, name)| name.clone()).collect(),
                        path: path_attribute(text, &code, at),
                        inline,
                        position: start,
                    });
                    if inline {
                        open.push((depth, name));
                    }
                    at = start;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The value of `#[path = ".."]` among the attributes right above an item.
fn path_attribute(text: &str, code: &str, item: usize) -> Option<String> {
    let from = code[..item].rfind([';', '}', '{']).map_or(0, |at| at + 1);
    let at = from + code[from..item].find("#[path")?;
    let value = text[at..item].split('"').nth(1)?;
    Some(value.to_owned())
}

/// The byte ranges of inline items under `#[cfg(test)]`.
pub fn test_regions(text: &str) -> Vec<std::ops::Range<usize>> {
    let code = code_only(text);
    let mut regions: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        if regions.last().is_some_and(|region| region.contains(&at)) {
            continue;
        }
        let Some(length) = code[at..].find(['{', ';']) else {
            continue;
        };
        let open = at + length;
        if code.as_bytes()[open] == b'{' {
            regions.push(at..block_end(&code, open));
        }
    }
    regions
}

fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = concat!(
            "let a = \"x{\\\"y\"; // z{\n",
            "/* p /* q */ r{ */ let b = r#\"s\"{t\"#;\n",
            "let c = '{'; let d = '\\''; fn e<'a>(f: &'a str) {} let u = 'é';",
        );
        let code = code_only(text);
        assert_eq!(code.len(), text.len());
        for hidden in ["x", "y", "z", "p /", "q", "t\"", "é"] {
            assert!(!code.contains(hidden), "{hidden} is still in {code}");
        }
        assert_eq!(code.matches('{').count(), 1, "{code}");
        assert!(code.contains("fn e<'a>(f: &'a str) {}"));
    }

    #[test]
    fn an_identifier_that_ends_in_r_does_not_start_a_raw_string() {
        assert_eq!(code_only("for\"a\" bar"), "for    bar");
    }

    #[test]
    fn modules_know_their_surroundings() {
        let text =
            "mod a;\npub mod b { mod c; }\n#[path = \"x/y.rs\"]\nmod d;\n// mod e;\nmodify f;";
        let found: Vec<_> = modules(text)
            .into_iter()
            .map(|module| (module.name, module.within, module.path, module.inline))
            .collect();
        assert_eq!(
            found,
            [
                ("a".to_owned(), vec![], None, false),
                ("b".to_owned(), vec![], None, true),
                ("c".to_owned(), vec!["b".to_owned()], None, false),
                ("d".to_owned(), vec![], Some("x/y.rs".to_owned()), false),
            ]
        );
    }

    #[test]
    fn a_test_region_ends_with_its_brace() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { } }\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let regions = test_regions(text);
        assert_eq!(regions.len(), 1);
        assert!(regions[0].contains(&text.find("fn b").expect("it is in the text")));
        assert!(!regions[0].contains(&text.find("fn c").expect("it is in the text")));
    }

    #[test]
    fn words_stand_alone() {
        assert_eq!(
            word_positions("ab abc xab ab", "ab").collect::<Vec<_>>(),
            [0, 11]
        );
    }
}
