//! What a handler does in a forked child: it waits for several things, runs in parts, is sent to from a
//! thread, and shares a lock with its parts. The server is a process of its own.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use socketserver::{
    Connection, ForkingTcpServer, HandlerError, HandlerResult, Select, handler_fn, sync,
};

use crate::harness::{Test, tests};
use crate::support::TIMEOUT;
use crate::support::clients::{ask, line_of, rest_of};
use crate::support::server_process::{Part, ServerProcess, serve};

pub(crate) const TESTS: &[Test] = tests![
    a_child_selects_among_its_client_and_an_upstream,
    a_stop_ends_the_select_of_a_child,
    a_child_runs_in_parts_each_with_an_upstream,
    threads_of_a_child_send_to_its_client,
];

pub(crate) const PARTS: &[Part] = &[("child-handlers", serve_child_handlers)];

/// A client of a child that does this, with the address of the listener.
fn client(server: &ServerProcess, what: &str, upstream: &TcpListener) -> TcpStream {
    let mut client = server.client();
    writeln!(client, "{what} {}", upstream.local_addr().unwrap()).unwrap();
    client
}

fn scene() -> (ServerProcess, TcpListener) {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    (ServerProcess::start("child-handlers", ""), upstream)
}

fn a_child_selects_among_its_client_and_an_upstream() {
    let (server, listener) = scene();
    let mut client = client(&server, "select", &listener);
    let (mut upstream, _) = listener.accept().unwrap();
    for number in 0..10 {
        client.write_all(format!("up {number}\n").as_bytes()).unwrap();
        assert_eq!(line_of(&upstream), format!("up {number}"));
        upstream.write_all(format!("down {number}\n").as_bytes()).unwrap();
        assert_eq!(line_of(&client), format!("down {number}"));
    }
    drop(client);
    assert_eq!(rest_of(upstream), b"");
    server.stop();
}

fn a_stop_ends_the_select_of_a_child() {
    let (server, listener) = scene();
    let client = client(&server, "select", &listener);
    let (upstream, _) = listener.accept().unwrap();
    assert_eq!(server.children().len(), 1);
    let ended = server.stop();
    assert!(ended.lines().any(|line| line.ends_with("forced 0")), "{ended:?}");
    assert_eq!((rest_of(client), rest_of(upstream)), (Vec::new(), Vec::new()));
}

fn a_child_runs_in_parts_each_with_an_upstream() {
    let (server, listener) = scene();
    let client = client(&server, "parts", &listener);
    let upstreams: Vec<TcpStream> = (0..2).map(|_| listener.accept().unwrap().0).collect();
    // Both have asked before the first one is answered.
    let mut asked = Vec::new();
    for upstream in &upstreams {
        asked.push(line_of(upstream));
    }
    for (mut upstream, asked) in upstreams.iter().zip(&asked) {
        upstream.write_all(format!("answer to {asked}\n").as_bytes()).unwrap();
    }
    let mut answers = [line_of(&client), line_of(&client)];
    answers.sort();
    assert_eq!(answers, ["answer to one", "answer to two"]);
    server.stop();
}

fn threads_of_a_child_send_to_its_client() {
    let (server, listener) = scene();
    let client = client(&server, "sender", &listener);
    assert_eq!([(); 3].map(|()| line_of(&client)), ["pushed 0", "pushed 1", "pushed 2"]);
    assert_eq!(ask(&client, "and an answer"), "and an answer");
    drop(client);
    server.stop();
}

// The server.

fn serve_child_handlers(_argument: &str) {
    let handler = handler_fn(|client| {
        let mut line = String::new();
        client.read_line(&mut line)?;
        let (what, upstream) = line.trim_end().split_once(' ').ok_or("no address")?;
        match what {
            "select" => select(client, upstream),
            "parts" => parts(client, upstream),
            _ => push(client),
        }
    });
    serve(ForkingTcpServer::bind("127.0.0.1:0", handler).unwrap());
}

fn select(client: &mut Connection, upstream: &str) -> HandlerResult {
    let mut upstream = client.connect(upstream, TIMEOUT)?;
    let (mut select, mut line) = (Select::new(), Vec::new());
    loop {
        let late = Instant::now() + TIMEOUT;
        let (from, to) = match select.wait(&[&*client, &upstream, client.server()], late)? {
            Some(0) => (&mut *client, &mut upstream),
            Some(1) => (&mut upstream, &mut *client),
            _ => return Ok(()),
        };
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        to.write_all(&line)?;
    }
}

fn parts(client: &mut Connection, upstream: &str) -> HandlerResult {
    let mut upstreams = [client.connect(upstream, TIMEOUT)?, client.connect(upstream, TIMEOUT)?];
    let answers = sync::Mutex::new(Vec::new());
    let [one, two] = &mut upstreams;
    let ask = |upstream: &mut Connection, question: &str| -> HandlerResult {
        writeln!(upstream, "{question}")?;
        let mut answer = String::new();
        upstream.read_line(&mut answer)?;
        answers.lock().push(answer);
        Ok(())
    };
    sync::scope(|scope| {
        let part = scope.spawn(|| ask(one, "one"))?;
        ask(two, "two")?;
        part.join().expect("it does not panic")?;
        Ok::<_, HandlerError>(())
    })?;
    Ok(client.write_all(answers.into_inner().concat().as_bytes())?)
}

fn push(client: &mut Connection) -> HandlerResult {
    let sender = client.sender(1024)?;
    let thread = thread::spawn(move || {
        for number in 0..3 {
            sender.send(format!("pushed {number}\n"))?;
        }
        Ok::<_, socketserver::Error>(())
    });
    thread.join().expect("it does not panic")?;
    let mut line = String::new();
    while client.read_line(&mut line)? > 0 {
        client.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
}
