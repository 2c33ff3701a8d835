//! An SMTP client for `mail`, and for any other server that needs neither a password nor
//! encryption. It sends standard input as a mail, with the crate `lettre`.
//!
//! ```sh
//! cargo run -p socketserver-demos --bin mail -- --maildir /tmp/mail --user ada:secret &
//! echo 'See you at noon.' | cargo run -p socketserver-demos --bin send_mail -- \
//!     --to ada@example.test --subject Lunch
//! ```

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use lettre::{Message, SmtpTransport, Transport};
use lexopt::prelude::*;

const USAGE: &str = "\
usage: send_mail --to ADDRESS [FLAG]...

Sends standard input, which is UTF-8, as a mail.

  --to ADDRESS      who gets it; may be given more than once
  --from ADDRESS    who sends it [default: nobody@localhost]
  --subject TEXT    its subject
  --server ADDRESS  the SMTP server's HOST:PORT [default: 127.0.0.1:2500]
  --help            this text
";

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    eprintln!("send_mail: {}", error.to_string().replace(['\r', '\n'], " "));
    ExitCode::from(if error.is::<lexopt::Error>() { 2 } else { 1 })
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut server, mut from) = ("127.0.0.1:2500".to_owned(), "nobody@localhost".to_owned());
    let (mut to, mut subject) = (Vec::new(), String::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("server") => server = parser.value()?.string()?,
            Long("from") => from = parser.value()?.string()?,
            Long("to") => to.push(parser.value()?.string()?),
            Long("subject") => subject = parser.value()?.string()?,
            Long("help") | Short('h') => {
                print!("{USAGE}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if to.is_empty() {
        return Err(lexopt::Error::from("--to?").into());
    }
    let no_address = || lexopt::Error::from(format!("{server:?} is no HOST:PORT"));
    let (host, port) = server.rsplit_once(':').ok_or_else(no_address)?;
    let port = port.parse().map_err(|_| no_address())?;
    let mailbox = |text: &String| {
        text.parse().map_err(|error| lexopt::Error::from(format!("{text:?}: {error}")))
    };
    let mut message = Message::builder().from(mailbox(&from)?).subject(subject);
    for recipient in &to {
        message = message.to(mailbox(recipient)?);
    }
    let body = io::read_to_string(io::stdin())?;
    // lettre adds the CRLF of the last line.
    let lines = body.strip_suffix('\n').unwrap_or(&body);
    let message = message.body(lines.strip_suffix('\r').unwrap_or(lines).to_owned())?;

    let transport = SmtpTransport::builder_dangerous(host.trim_matches(['[', ']']))
        .port(port)
        .timeout(Some(Duration::from_secs(60)))
        .build();
    transport.send(&message)?;
    Ok(())
}
