//! CSV after RFC 4180: fields between commas, quotes around a field that holds a comma, a line end or a quote, and a quote
//! doubled inside. A row becomes a JSON object in the order of the columns, every value as text: the input says nothing
//! about types. What a spreadsheet would silently repair is refused.

use super::Parsed;
use crate::config::suggest::closest;

/// The header line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Columns {
    /// Each name as JSON, with what stands before and behind it: `{"a":` or `,"b":`.
    openings: Vec<String>,
    names: Vec<String>,
    key: Option<usize>,
}

impl Columns {
    /// Reads the header line.
    pub(crate) fn parse(raw: &[u8], key: Option<&str>) -> Result<Self, String> {
        let names = fields(raw)?;
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(format!("two columns are called {name:?}"));
            }
        }
        let key = match key {
            None => None,
            Some(key) => match names.iter().position(|name| name == key) {
                Some(place) => Some(place),
                None => {
                    let meant = closest(key, names.iter().map(String::as_str));
                    let meant = meant
                        .map(|name| format!(": did you mean {name:?}?"))
                        .unwrap_or_default();
                    return Err(format!(
                        "no column is called {key:?}{meant} (there are {})",
                        names.join(", ")
                    ));
                }
            },
        };
        let json = |name: &String| serde_json::Value::from(name.as_str()).to_string();
        let opening =
            |(index, name)| format!("{}{}:", if index == 0 { "{" } else { "," }, json(name));
        Ok(Self {
            openings: names.iter().enumerate().map(opening).collect(),
            names,
            key,
        })
    }

    /// Reads a row.
    pub(crate) fn row(&self, raw: &[u8]) -> Result<Parsed, String> {
        let fields = fields(raw)?;
        if fields.len() != self.names.len() {
            return Err(format!(
                "it has {} fields, and the header has {}",
                fields.len(),
                self.names.len()
            ));
        }
        let mut value = Vec::with_capacity(
            raw.len() + self.openings.iter().map(String::len).sum::<usize>() + 2 * fields.len() + 1,
        );
        for (opening, field) in self.openings.iter().zip(&fields) {
            value.extend_from_slice(opening.as_bytes());
            serde_json::to_writer(&mut value, field).map_err(|error| error.to_string())?;
        }
        value.push(b'}');
        let key = self.key.map(|place| fields[place].clone().into_bytes());
        Ok(Parsed { key, value })
    }
}

/// Divides one record, without its line end, into its fields.
fn fields(raw: &[u8]) -> Result<Vec<String>, String> {
    let text = core::str::from_utf8(raw)
        .map_err(|error| format!("it is no UTF-8 at byte {}", error.valid_up_to()))?;
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return Err("a quote stands inside a field that does not begin with one: quote the whole field and double it".to_owned());
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => {
                return Err(
                    "text follows a closing quote: a quote inside a field is doubled".to_owned(),
                );
            }
        }
    }
}

/// Reads a field from behind its opening quote; what follows its closing one.
fn quoted_field(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let Some(end) = rest.find('"') else {
            return Err("a quote that opens here is never closed".to_owned());
        };
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, rest)),
        }
    }
}
