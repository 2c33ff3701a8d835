//! What the three clients share: the command line and exit statuses.

use std::fmt;
use std::process::ExitCode;

use lexopt::Arg;
use socketserver::services::printable;
use socketserver::{Endpoint, Error};

/// Why a client ends early: each kind has its exit status.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong: status 2.
    Usage(String),
    /// Something went wrong later: status 1.
    Runtime(String),
}

/// What is said of an error that happened while `doing` something.
pub(crate) fn failed<E: fmt::Display>(doing: impl fmt::Display) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Runtime(format!("{doing}: {error}"))
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Address { .. } => Failure::Usage(error.to_string()),
            _ => Failure::Runtime(error.to_string()),
        }
    }
}

/// Ends a client.
pub(crate) fn exit(program: &str, result: Result<(), Failure>) -> ExitCode {
    result.map_or_else(|failure| report(program, failure).into(), |()| ExitCode::SUCCESS)
}

/// Says on one line of standard error what went wrong, and returns the exit status for it.
pub(crate) fn report(program: &str, failure: Failure) -> u8 {
    let (status, message) = match failure {
        Failure::Usage(message) => (2, message + " (try --help)"),
        Failure::Runtime(message) => (1, message),
    };
    eprintln!("{program}: {}", printable(message.as_bytes()));
    status
}

/// Reads the command line: `[--connect] ADDRESS`, `--help`, and the one option of the client's own,
/// if it has any, with its value.
pub(crate) fn arguments(
    usage: &str,
    default: &str,
    own: Option<(char, &str)>,
) -> Result<(Endpoint, Option<String>), Failure> {
    let (mut address, mut value) = (None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("connect") => address = Some(parser.value()?),
            Arg::Value(positional) if address.is_none() => address = Some(positional),
            Arg::Short('h') | Arg::Long("help") => {
                print!("{usage}");
                std::process::exit(0);
            }
            Arg::Short(short) if own.is_some_and(|own| own.0 == short) => {
                value = Some(parser.value()?);
            }
            Arg::Long(long) if own.is_some_and(|own| own.1 == long) => {
                value = Some(parser.value()?);
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let text = |argument: std::ffi::OsString| {
        argument.into_string().map_err(|raw| Failure::Usage(format!("{raw:?} is not UTF-8")))
    };
    let address = address.map_or_else(|| Ok(default.to_owned()), text)?;
    Ok((address.parse()?, value.map(text).transpose()?))
}
