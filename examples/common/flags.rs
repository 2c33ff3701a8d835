//! The flags of the command line.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;

use super::{NAME, Outcome};

/// A flag with a value: its name, what stands for the value in `--help`, and what it does. In brackets, the
/// value may be left out; if it is empty, there is none.
#[derive(Clone, Copy)]
pub(super) struct Flag<'a>(pub(super) &'static str, pub(super) &'static str, pub(super) &'a str);

/// The values of the flags that were given, in their order.
pub(super) struct Values(Vec<(&'static str, String)>);

impl Values {
    pub(super) fn all(&self, flag: &str) -> impl Iterator<Item = &str> {
        let given = self.0.iter().filter(move |(name, _)| *name == flag);
        given.map(|(_, value)| value.as_str())
    }

    pub(super) fn last(&self, flag: &str) -> Option<&str> {
        self.all(flag).last()
    }

    /// The last value of a flag, which is a usage error if `parse` refuses it.
    pub(super) fn parsed<T, E>(
        &self,
        flag: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, lexopt::Error>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let Some(text) = self.last(flag) else { return Ok(None) };
        let refused =
            |error: E| lexopt::Error::ParsingFailed { value: text.to_owned(), error: error.into() };
        parse(text).map(Some).map_err(refused)
    }

    pub(super) fn number<T>(&self, flag: &str) -> Result<Option<T>, lexopt::Error>
    where
        T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
    {
        self.parsed(flag, str::parse)
    }
}

/// Reads the command line. `None` after `--help`.
pub(super) fn parse(flags: &[Flag<'_>]) -> Result<Option<Values>, lexopt::Error> {
    let mut values = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(None),
            Long(name) => match flags.iter().find(|flag| flag.0 == name) {
                Some(flag) => values.push((flag.0, value(&mut parser, flag)?)),
                None => return Err(argument.unexpected()),
            },
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(Values(values)))
}

/// The value of a flag; empty if it was left out.
fn value(parser: &mut lexopt::Parser, flag: &Flag<'_>) -> Result<String, lexopt::Error> {
    if flag.1.is_empty() {
        return Ok(String::new());
    }
    if !flag.1.starts_with('[') {
        return parser.value()?.string();
    }
    let given = parser.optional_value().or_else(|| {
        let is_value = |text: &OsStr| !text.as_encoded_bytes().starts_with(b"-");
        parser.try_raw_args()?.next_if(is_value)
    });
    given.unwrap_or_default().string()
}

/// Prints what `--help` is for.
pub(super) fn help(about: &str, flags: &[Flag<'_>]) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{about}\n\nUsage: {NAME} [FLAG]...\n")?;
    for Flag(name, value, help) in flags {
        writeln!(out, "  {:<24} {help}", format!("--{name} {value}"))?;
    }
    writeln!(out, "  {:<24} this text\n", "--help")?;
    writeln!(out, "Addresses: HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT, unix:/path,")?;
    writeln!(
        out,
        "unix:@name, unixgram:/path, as far as the example serves them; or a socket that"
    )?;
    writeln!(
        out,
        "the program is started with: systemd:NAME, fd:NUMBER, and for one connection inetd."
    )?;
    Ok(())
}

/// The error for a bad value of a flag: a message in one line, and exit status 2.
pub(crate) fn usage_error(message: String) -> Box<dyn Error> {
    lexopt::Error::from(message).into()
}

pub(super) fn seconds(text: &str) -> Result<Duration, &'static str> {
    let number = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a time to wait")
}
