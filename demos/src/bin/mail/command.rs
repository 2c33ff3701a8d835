//! Parses the commands of SMTP
//! ([RFC 5321, 4.1.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1)).

use crate::envelope::{self, Path};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Hello { name: &'a str, is_extended: bool },
    Mail { sender: Path<'a>, size: Option<u64>, has_parameters: bool },
    Recipient(Path<'a>),
    Data,
    Reset,
    Verify,
    Help,
    Noop,
    Quit,
}

/// The reply to a command that is refused.
pub(crate) type Refusal = &'static str;

const SYNTAX: Refusal = "501 syntax error in the argument";
const NO_SUCH_PARAMETER: Refusal = "555 parameter not known here";

impl Command<'_> {
    pub(crate) fn parse(line: &str) -> Result<Command<'_>, Refusal> {
        // Trailing spaces are tolerated (RFC 5321, 4.1.1), and so are more spaces than one.
        let line = line.trim_end_matches(' ');
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let argument = argument.trim_start_matches(' ');
        let alone = |command| if argument.is_empty() { Ok(command) } else { Err(SYNTAX) };
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => hello(argument, true),
            "HELO" => hello(argument, false),
            "MAIL" => mail(after("FROM:", argument)?),
            "RCPT" => recipient(after("TO:", argument)?),
            "DATA" => alone(Command::Data),
            "RSET" => alone(Command::Reset),
            "QUIT" => alone(Command::Quit),
            "NOOP" => Ok(Command::Noop),
            "HELP" => Ok(Command::Help),
            "VRFY" if argument.is_empty() => Err(SYNTAX),
            "VRFY" => Ok(Command::Verify),
            "AUTH" | "BDAT" | "ETRN" | "EXPN" | "SEND" | "SAML" | "SOML" | "STARTTLS" | "TURN" => {
                Err("502 command not implemented")
            }
            _ => Err("500 command not known"),
        }
    }

    /// Whether a client that sends this line may send a message next, even if the command is
    /// refused. No line of that message is a command.
    pub(crate) fn announces_text(line: &str) -> bool {
        let verb = line.split(' ').next().unwrap_or(line);
        ["DATA", "BDAT"].iter().any(|data| verb.eq_ignore_ascii_case(data))
    }
}

/// Any name will do: no mail may be refused because the name is wrong (RFC 5321, 4.1.4).
fn hello(name: &str, is_extended: bool) -> Result<Command<'_>, Refusal> {
    if name.is_empty() { Err(SYNTAX) } else { Ok(Command::Hello { name, is_extended }) }
}

fn mail(argument: &str) -> Result<Command<'_>, Refusal> {
    let (sender, rest) = envelope::path(argument).ok_or(SYNTAX)?;
    if sender == Path::Postmaster {
        return Err(SYNTAX);
    }
    let (mut size, mut body) = (None, None);
    let mut parameters = parameters(rest)?.peekable();
    let has_parameters = parameters.peek().is_some();
    for (name, value) in parameters {
        let taken = match name.to_ascii_uppercase().as_str() {
            "SIZE" => size.replace(number(value).ok_or(SYNTAX)?).is_some(),
            "BODY" if ["7BIT", "8BITMIME"].contains(&&*value.to_ascii_uppercase()) => {
                body.replace(value).is_some()
            }
            "BODY" => return Err(SYNTAX),
            _ => return Err(NO_SUCH_PARAMETER),
        };
        if taken {
            return Err(SYNTAX);
        }
    }
    Ok(Command::Mail { sender, size, has_parameters })
}

fn recipient(argument: &str) -> Result<Command<'_>, Refusal> {
    match envelope::path(argument).ok_or(SYNTAX)? {
        (Path::Null, _) => Err(SYNTAX),
        (path, "") => Ok(Command::Recipient(path)),
        (_, rest) => parameters(rest).and(Err(NO_SUCH_PARAMETER)),
    }
}

/// The text after `FROM:` or `TO:`. Some clients send a space before the path.
fn after<'a>(keyword: &str, argument: &'a str) -> Result<&'a str, Refusal> {
    match argument.split_at_checked(keyword.len()) {
        Some((word, rest)) if word.eq_ignore_ascii_case(keyword) => {
            Ok(rest.trim_start_matches(' '))
        }
        _ => Err(SYNTAX),
    }
}

/// The parameters in ` NAME=VALUE NAME`; a missing value is empty.
fn parameters(text: &str) -> Result<impl Iterator<Item = (&str, &str)>, Refusal> {
    let mut words = text.split(' ');
    // The text begins with the space after the path.
    if words.next() != Some("") {
        return Err(SYNTAX);
    }
    let words = words.filter(|word| !word.is_empty());
    Ok(words.map(|word| word.split_once('=').unwrap_or((word, ""))))
}

/// Up to 20 digits (RFC 1870); a number that does not fit is the largest that does.
fn number(text: &str) -> Option<u64> {
    let is_number = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}
