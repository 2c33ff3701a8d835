//! The replies of a [`Console`](super::Console), for people and for programs.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

pub(super) enum Reply {
    Done,
    Error(Cow<'static, str>),
    Text(String),
    Fields(Vec<(&'static str, Value)>),
    Rows(Rows),
}

/// Written one after the other: there may be as many as there are connections.
pub(super) struct Rows {
    /// With the width of each, for people.
    columns: &'static [(&'static str, usize)],
    rows: Box<dyn Iterator<Item = Vec<Value>>>,
}

pub(super) enum Value {
    Number(u64),
    Time(Duration),
    Text(String),
    List(Vec<String>),
    /// There is none: no limit, for instance.
    None,
}

impl Rows {
    pub(super) fn new(
        columns: &'static [(&'static str, usize)],
        rows: impl Iterator<Item = Vec<Value>> + 'static,
    ) -> Rows {
        Rows { columns, rows: Box::new(rows) }
    }
}

impl Reply {
    pub(super) fn write(self, is_json: bool, out: &mut impl Write) -> io::Result<()> {
        if is_json { self.write_json(out) } else { self.write_text(out) }
    }

    fn write_text(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Reply::Done => writeln!(out, "done"),
            Reply::Error(reason) => writeln!(out, "error: {reason}"),
            Reply::Text(text) => write!(out, "{text}"),
            Reply::Fields(fields) => {
                fields.iter().try_for_each(|(name, value)| writeln!(out, "{name:<15} {value}"))
            }
            Reply::Rows(Rows { columns, mut rows }) => {
                let names = columns.iter().map(|(name, _)| Value::Text((*name).to_owned()));
                write_row(columns, &names.collect::<Vec<_>>(), out)?;
                rows.try_for_each(|row| write_row(columns, &row, out))
            }
        }
    }

    fn write_json(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Reply::Done => write!(out, "true")?,
            Reply::Error(reason) => write!(out, "{{\"error\":{}}}", Json(&reason))?,
            Reply::Text(text) => write!(out, "{}", Json(&text))?,
            Reply::Fields(fields) => {
                write_object(fields.iter().map(|(name, value)| (*name, value)), out)?;
            }
            Reply::Rows(Rows { columns, rows }) => {
                out.write_all(b"[")?;
                for (index, row) in rows.enumerate() {
                    if index > 0 {
                        out.write_all(b",")?;
                    }
                    write_object(columns.iter().map(|(name, _)| *name).zip(&row), out)?;
                }
                out.write_all(b"]")?;
            }
        }
        out.write_all(b"\n")
    }
}

fn write_row(columns: &[(&str, usize)], row: &[Value], out: &mut impl Write) -> io::Result<()> {
    let shown = columns.iter().zip(row).map(|((_, width), value)| {
        let value = value.to_string();
        format!("{value:<width$}")
    });
    let line = shown.collect::<Vec<_>>().join(" ");
    writeln!(out, "{}", line.trim_end())
}

fn write_object<'a>(
    fields: impl Iterator<Item = (&'a str, &'a Value)>,
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(b"{")?;
    for (index, (name, value)) in fields.enumerate() {
        let comma = if index > 0 { "," } else { "" };
        write!(out, "{comma}{}:", Json(name))?;
        match value {
            Value::Number(number) => write!(out, "{number}")?,
            Value::Time(time) => write!(out, "{:.3}", time.as_secs_f64())?,
            Value::Text(text) => write!(out, "{}", Json(text))?,
            Value::List(texts) => {
                let texts: Vec<_> = texts.iter().map(|text| Json(text).to_string()).collect();
                write!(out, "[{}]", texts.join(","))?;
            }
            Value::None => out.write_all(b"null")?,
        }
    }
    out.write_all(b"}")
}

/// For people.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => number.fmt(f),
            Value::Time(time) => write!(f, "{:.1} s", time.as_secs_f64()),
            Value::Text(text) => f.write_str(text),
            Value::List(texts) => f.write_str(&texts.join(", ")),
            Value::None => f.write_str("none"),
        }
    }
}

/// A string of JSON ([RFC 8259, 7](https://www.rfc-editor.org/rfc/rfc8259#section-7)).
struct Json<'a>(&'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}
