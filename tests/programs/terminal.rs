//! The example clients at a terminal, which `script` (of util-linux) makes of its pipes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;

use socketserver::*;

use crate::clients::listen;
use crate::harness::{Test, tests};
use crate::support::next;
use crate::support::process::{Process, example};
use crate::support::servers::{serve, serve_with};

pub(crate) const TESTS: &[Test] = tests![
    a_line_typed_at_a_terminal_is_answered: ["script"],
    a_received_line_does_not_split_the_line_that_is_typed: ["script"],
    end_of_file_from_the_server_ends_the_client_at_its_prompt: ["script"],
    an_answer_before_end_of_file_is_printed: ["script"],
    the_client_waits_for_the_last_answers_after_ctrl_d: ["script"],
    a_server_that_does_not_close_after_ctrl_d_is_left: ["script"],
    datagrams_are_typed_and_answered_at_a_terminal: ["script"],
];

const CTRL_C: &[u8] = b"\x03";
const CTRL_D: &[u8] = b"\x04";

/// Starts an example client at a terminal of its own, and waits for its prompt.
fn at_terminal(name: &str, arguments: &[&str]) -> Process {
    let program = example(name);
    let words = [program.get_program().to_str().unwrap()].into_iter();
    let words = words.chain(arguments.iter().copied()).map(|word| format!("'{word}'"));
    let mut command = Command::new("script");
    let line = words.collect::<Vec<_>>().join(" ");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm");
    let client = Process::spawn(command);
    client.wait_for("> ");
    client
}

fn a_line_typed_at_a_terminal_is_answered() {
    let upper = handler_fn(|connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(line.to_uppercase().as_bytes())?;
            line.clear();
        }
        Ok(())
    });
    let server = serve(upper);
    let address = server.local_addr().to_string();
    for client in ["echo_client", "chat_client"] {
        let mut client = at_terminal(client, &[&address]);
        for (line, answer) in [("one", "ONE\r\n"), ("zwölf", "ZWÖLF\r\n"), ("three", "THREE\r\n")]
        {
            client.send(format!("{line}\r"));
            // The next prompt may be printed before the answer.
            client.wait_for(answer);
        }
    }
}

fn a_received_line_does_not_split_the_line_that_is_typed() {
    let (address, accepted) = listen();
    let mut client = at_terminal("chat_client", &[&address]);
    let mut server = BufReader::new(next(&accepted));
    client.send("half a");
    client.wait_for("half a");
    server.get_mut().write_all(b"[bob] \x1b[2Jhi\x07\r\n[bob] \ttwice\r\n").unwrap();
    // They are on lines of their own, and the prompt is printed again, with what was typed.
    client.wait_for("[bob] \u{fffd}[2Jhi\u{fffd}\r\n");
    client.wait_for("[bob] \ttwice\r\n");
    client.wait_for("> half a");
    client.send(" line\r");
    let mut line = String::new();
    server.read_line(&mut line).unwrap();
    assert_eq!(line, "half a line\n");
    client.wait_for("> ");
    client.send(CTRL_C);
    assert_eq!(client.wait().status, Some(0));
}

fn end_of_file_from_the_server_ends_the_client_at_its_prompt() {
    for _ in 0..20 {
        let (address, accepted) = listen();
        let mut client = at_terminal("chat_client", &[&address]);
        let mut server = next(&accepted);
        client.send("half a");
        client.wait_for("half a");
        server.write_all(b"one\r\ntwo\r\nlast line").unwrap();
        drop(server);
        client.wait_for("one\r\n");
        client.wait_for("two\r\n");
        client.wait_for("last line\r\n");
        client.wait_for("the server closed the connection\r\n");
        assert_eq!(client.wait().status, Some(0));
    }
}

fn an_answer_before_end_of_file_is_printed() {
    let handler = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        Ok(connection.write_all(b"bye\r\n")?)
    });
    let server = serve(handler);
    let address = server.local_addr().to_string();
    for _ in 0..20 {
        let mut client = at_terminal("chat_client", &[&address]);
        client.send("quit\r");
        client.wait_for("bye\r\n");
        client.wait_for("the server closed the connection\r\n");
        assert_eq!(client.wait().status, Some(0));
    }
}

fn the_client_waits_for_the_last_answers_after_ctrl_d() {
    let (address, accepted) = listen();
    let mut client = at_terminal("echo_client", &[&address]);
    let mut server = next(&accepted);
    client.send(CTRL_D);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    server.write_all(b"bye\r\n").unwrap();
    drop(server);
    client.wait_for("bye\r\n");
    assert_eq!(client.wait().status, Some(0));
}

fn a_server_that_does_not_close_after_ctrl_d_is_left() {
    let (address, accepted) = listen();
    let mut client = at_terminal("chat_client", &[&address]);
    let server = next(&accepted);
    client.send(CTRL_D);
    assert_eq!(client.wait().status, Some(0));
    drop(server);
}

fn datagrams_are_typed_and_answered_at_a_terminal() {
    let twice = datagram_handler_fn(|request| {
        let answer = request.data().repeat(2);
        Ok(request.reply(&answer)?)
    });
    let server = serve_with(ThreadingUdpServer::builder(), twice);
    let address = server.local_addr().to_string();
    let mut client = at_terminal("udp_client", &["-t", "30", &address]);
    client.send("one\r");
    client.wait_for("oneone\r\n");
    client.wait_for("> ");
    client.send(CTRL_D);
    assert_eq!(client.wait().status, Some(0));
}
