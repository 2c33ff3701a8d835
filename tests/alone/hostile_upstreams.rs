//! A gateway to servers that are hostile: its other clients see no error and hardly a delay, its memory
//! is bounded, and it stops in time. The gateway and the upstream are processes.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use socketserver::{Connection, HandlerResult, ThreadingTcpServer};

use crate::good_clients::GoodClients;
use crate::harness::{Test, tests};
use crate::hostile::{WINDOW, check_delay};
use crate::support::clients::{ask, reset, tcp};
use crate::support::process::Server;
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::support::system::{raise_descriptor_limit, status_of};

pub(crate) const TESTS: &[Test] = tests![
    hostile_upstreams_do_not_delay_other_clients_of_a_gateway,
    hostile_upstreams_do_not_delay_other_clients_of_a_gateway_on_fibers,
];

pub(crate) const PARTS: &[Part] = &[("upstream", serve_upstream)];

const GOOD: usize = 50;
const HOSTILE: usize = 500;

/// What the upstream does after the first line of a client, which says it.
const WAYS: [&str; 5] = ["is silent", "floods", "drips", "half-closes", "resets"];

const INTERVAL: Duration = Duration::from_millis(100);

fn hostile_upstreams_do_not_delay_other_clients_of_a_gateway() {
    gateway("threading");
}

fn hostile_upstreams_do_not_delay_other_clients_of_a_gateway_on_fibers() {
    gateway("fibers");
}

fn gateway(mixin: &str) {
    raise_descriptor_limit();
    let upstream = ServerProcess::start("upstream", "");
    let flags = ["--upstream", &upstream.address, "--mixin", mixin, "--stop-timeout", "2"];
    let gateway = Server::start("gateway", "127.0.0.1:0", &flags);
    let join = || {
        let stream = tcp(gateway.endpoint());
        assert_eq!(ask(&stream, "echoes"), "echoes");
        stream
    };
    let mut good = GoodClients::join(GOOD, |listener, speaker| listener == speaker, join);
    let idle = good.talk(INTERVAL, WINDOW);

    // None of them reads: what an upstream floods stays in the gateway's buffers and the kernel's.
    let hostile: Vec<TcpStream> = (0..HOSTILE)
        .map(|number| {
            let mut stream = tcp(gateway.endpoint());
            writeln!(stream, "{}", WAYS[number % WAYS.len()]).unwrap();
            stream
        })
        .collect();
    let what = || format!("gateway --mixin {mixin}, {HOSTILE} hostile upstreams");
    check_delay(&mut good, INTERVAL, idle, what);

    let used: usize = status_of(gateway.pid(), "VmHWM").parse().unwrap();
    println!("gateway --mixin {mixin}: at most {used} KiB of memory");
    // A program, and for each pair two buffers of each direction, and a stack.
    assert!(used < 32 * 1024 + 256 * (GOOD + HOSTILE), "{used} KiB");
    // Half of the clients vanish in the middle. The others are cut off by the stop.
    hostile.into_iter().step_by(2).for_each(reset);
    drop(good);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().status, Some(0));
    upstream.stop();
}

fn serve_upstream(_argument: &str) {
    raise_descriptor_limit();
    let builder = ThreadingTcpServer::builder().backlog(1024).stop_timeout(Duration::ZERO);
    serve(builder.bind("127.0.0.1:0", behave).unwrap());
}

fn behave(client: &mut Connection) -> HandlerResult {
    let mut way = String::new();
    client.read_line(&mut way)?;
    match way.trim_end() {
        "is silent" => {
            while !client.is_stopping() {
                thread::sleep(Duration::from_millis(100));
            }
        }
        "floods" => loop {
            client.write_all(&[b'x'; 4096])?;
        },
        "drips" => {
            while !client.is_stopping() {
                client.write_all(b"x")?;
                client.flush()?;
                thread::sleep(Duration::from_millis(100));
            }
        }
        "half-closes" => {
            client.shutdown(std::net::Shutdown::Write)?;
            client.read_to_end(&mut Vec::new())?;
        }
        "resets" => {
            // Closed with unread input.
            client.write_all(b"x")?;
            client.shutdown(std::net::Shutdown::Both)?;
        }
        echoes => {
            writeln!(client, "{echoes}")?;
            loop {
                let line = client.fill_buf()?.to_vec();
                if line.is_empty() {
                    break;
                }
                client.write_all(&line)?;
                client.consume(line.len());
            }
        }
    }
    Ok(())
}
