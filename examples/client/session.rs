//! A conversation over a stream: at a terminal with a line editor, elsewhere as a plain filter.

mod wrap;

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor, ExternalPrinter};
use signal_hook::consts::SIGINT;
use socket2::Socket;
use socketserver::services::printable;
use socketserver::{Endpoint, Error, Scheme};

use crate::client::{self, Failure, failed};
use wrap::wrapped;

/// A line that does not end is shown in pieces of this size, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// After the user has left, how long the server may take for its last answers.
const PARTING: Duration = Duration::from_secs(1);

/// The connection: its reading end, buffered, and its writing end.
pub(crate) type Ends = (BufReader<Socket>, Socket);

/// Connects to a TCP or Unix stream server.
pub(crate) fn connect(endpoint: &Endpoint) -> Result<Ends, Failure> {
    let connected = if endpoint.is_unix() {
        let name = endpoint.unix_name(Scheme::Unix)?;
        name.socket_addr().and_then(|name| UnixStream::connect_addr(&name)).map(Socket::from)
    } else {
        let found = endpoint.resolve(Scheme::Tcp)?;
        TcpStream::connect(&found[..]).and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(Socket::from(stream))
        })
    };
    connected
        .and_then(|socket| Ok((BufReader::with_capacity(64 * 1024, socket.try_clone()?), socket)))
        .map_err(failed(format_args!("cannot connect to {endpoint}")))
}

/// Talks to the server until either side has had enough.
pub(crate) fn talk(program: &'static str, (input, socket): Ends) -> Result<(), Failure> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(config).map_err(failed("no line editor"))?;
        // A terminal that can do nothing, such as Emacs's, has none.
        if let Ok(printer) = editor.create_external_printer() {
            return converse(editor, printer, input, socket);
        }
    }
    filter(program, input, socket)
}

/// Standard input to the server, what the server sends to standard output. Both at a time: a
/// server that answers while it reads would otherwise wait for us, as we for it.
fn filter(program: &'static str, mut input: impl BufRead, socket: Socket) -> Result<(), Failure> {
    // Not joined: the server's end ends the program, also while standard input is still open.
    thread::spawn(move || match io::copy(&mut io::stdin().lock(), &mut &socket) {
        // That the server has gone is for the reading side to find out, after its last words.
        Err(error) if !Error::is_disconnect(&error) => {
            let failure = failed("cannot send standard input")(error);
            std::process::exit(client::report(program, failure).into())
        }
        _ => drop(socket.shutdown(Shutdown::Write)),
    });
    let mut output = io::stdout().lock();
    if output.is_terminal() {
        return show_lines(input, |rows| writeln!(output, "{rows}"));
    }
    loop {
        let received = input.fill_buf().map_err(failed("connection lost"))?;
        if received.is_empty() {
            return Ok(());
        }
        output
            .write_all(received)
            .and_then(|()| output.flush())
            .map_err(failed("cannot write to standard output"))?;
        let length = received.len();
        input.consume(length);
    }
}

/// A prompt for what is to be sent, above it what arrives.
fn converse(
    mut editor: DefaultEditor,
    mut printer: impl ExternalPrinter + Send + 'static,
    input: BufReader<Socket>,
    mut socket: Socket,
) -> Result<(), Failure> {
    // The signal is to take the editor from its prompt, the terminal restored. Between two prompts
    // it should do nothing, rather than kill.
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, ignored).map_err(failed("no signal handler"))?;
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let result = show_lines(input, |rows| printer.print(rows + "\n").map_err(io::Error::other));
        // The printer keeps one text for the editor. When it takes another, the last line has been
        // shown; this one, if it is shown at all, moves the cursor up and down again.
        let _ = printer.print("\x1b[A\n".into());
        let _ = ended.send(result);
        interrupt();
    });
    let mut leaving = false;
    loop {
        match editor.readline(if leaving { "" } else { "> " }) {
            Ok(line) if !leaving => socket
                .write_all(format!("{line}\n").as_bytes())
                .map_err(failed("connection lost"))?,
            Ok(_) => {}
            // The last answers are still to come, and the editor is who shows them.
            Err(ReadlineError::Eof) if !leaving => {
                leaving = true;
                let _ = socket.shutdown(Shutdown::Write);
                thread::spawn(|| {
                    thread::sleep(PARTING);
                    interrupt();
                });
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => {
                let Ok(result) = end.try_recv() else { return Ok(()) };
                if result.is_ok() && !leaving {
                    eprintln!("the server closed the connection");
                }
                return result;
            }
            Err(error) => return Err(failed("cannot read from the terminal")(error)),
        }
    }
}

/// Ends the prompt, as Ctrl-C does: again and again, for the editor might be on its way to it.
fn interrupt() {
    while signal_hook::low_level::raise(SIGINT).is_ok() {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Passes each line that arrives to `show`, in rows that fit the terminal, until EOF.
fn show_lines(
    mut input: impl BufRead,
    mut show: impl FnMut(String) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    let mut begins_line = true;
    loop {
        let read = input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        if !line.is_empty() {
            let rows = wrapped(&printable(&line), begins_line);
            show(rows).map_err(failed("cannot write to the terminal"))?;
            begins_line = line.ends_with(b"\n");
            line.clear();
        }
        if read.map_err(failed("connection lost"))? == 0 {
            return Ok(());
        }
    }
}
