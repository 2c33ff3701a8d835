//! Two thousand slow clients beside a hundred fast ones: the fast ones see no error and hardly a
//! delay, and the server's memory is bounded. The servers are examples as processes.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use socketserver::Scheme;

use crate::good_clients::{GoodClients, Hears};
use crate::harness::{Test, tests};
use crate::slow_clients::SlowClients;
use crate::support::clients::{echoes, line_of, tcp};
use crate::support::process::Server;
use crate::support::system::{raise_descriptor_limit, status_of};
use crate::support::wait_until;

pub(crate) const TESTS: &[Test] = tests![
    two_thousand_slow_clients_do_not_delay_others_of_an_echo_server,
    two_thousand_slow_clients_do_not_delay_others_of_an_echo_server_on_fibers,
    two_thousand_slow_members_do_not_delay_others_of_a_chat_and_are_disconnected,
    two_thousand_slow_members_do_not_delay_others_of_a_chat_on_fibers,
];

const GOOD: usize = 100;
const SLOW: usize = 2000;

/// How much later than without slow clients 99 of 100 answers may arrive.
const MAX_DELAY: Duration = Duration::from_millis(100);

/// How long the good clients are measured, without slow clients and beside them.
pub(crate) const WINDOW: Duration = Duration::from_secs(3);

/// A server and its clients.
struct Service {
    example: &'static str,
    /// Which of the good clients receive what another one sends.
    hears: Hears,
    /// How often each of them sends a line: rarely enough that the server, built without
    /// optimization, is mostly idle.
    interval: Duration,
    /// Connects a good client, and returns when it is served.
    join: fn(&Server) -> TcpStream,
    /// Whether the server tells its clients who has joined.
    announces: bool,
    /// What the slow clients send.
    request: &'static [u8],
    /// How much memory each client may cost the server, in KiB.
    max_memory_each: usize,
    /// How much more all of them together may cost.
    max_memory: usize,
}

/// The cost of a thread: no handler here uses more than 64 KiB of its stack, of the 512 KiB that [`socketserver::Threading`] gives it.
const STACK: usize = 64;

/// The most that a connection keeps of what it has read and not returned, and of what was written and
/// not sent (`LARGEST` in `connection/input.rs`, `OUTPUT_CAPACITY` in `connection/mod.rs`).
const BUFFERS: usize = 64 + 16;

/// A line of 1 KiB in the handler: a vector that grows may have twice the capacity.
const LINE: usize = 2;

/// A long line, in bytes, near the limit of 64 KiB.
const LONG_LINE: usize = 60_000;

/// More than such a program takes without clients, debug information included.
const PROGRAM: usize = 32 * 1024;

const ECHO: Service = Service {
    example: "echo",
    hears: |listener, speaker| listener == speaker,
    interval: Duration::from_millis(75),
    join: |server| tcp(server.endpoint()),
    announces: false,
    request:
        b"What was that? I cannot hear you, and would like to have it all again, please. So:\n",
    max_memory_each: STACK + BUFFERS + LINE,
    max_memory: PROGRAM,
};

const CHAT: Service = Service {
    example: "chat",
    hears: |listener, speaker| listener != speaker,
    interval: Duration::from_secs(2),
    join: |server| {
        let stream = tcp(server.endpoint());
        assert_eq!(line_of(&stream), "You're connected to the chat server\r");
        // It is a member when the server has printed so.
        assert_eq!(server.line(), format!("Client joined {}", stream.local_addr().unwrap()));
        stream
    },
    announces: true,
    request: b"",
    // For each member, a broadcast keeps the rest of one message that it has sent in part.
    max_memory_each: STACK + BUFFERS + LINE + LONG_LINE.div_ceil(1024),
    // For all members, it keeps 4 MiB that some have not received, and as much that is sent
    // meanwhile.
    max_memory: PROGRAM + 2 * 4 * 1024,
};

fn two_thousand_slow_clients_do_not_delay_others_of_an_echo_server() {
    echo("threading");
}

fn two_thousand_slow_clients_do_not_delay_others_of_an_echo_server_on_fibers() {
    echo("fibers");
}

fn echo(mixin: &str) {
    let Scene { server, good, slow } = Scene::of(&ECHO, mixin);
    // New connections are served too.
    echoes(server.endpoint(), "new\n");
    check_memory(&server, &ECHO);
    drop((good, slow));
    server.signal(Signal::TERM);
    assert_eq!(server.wait().status, Some(0));
}

fn two_thousand_slow_members_do_not_delay_others_of_a_chat_and_are_disconnected() {
    chat("threading");
}

fn two_thousand_slow_members_do_not_delay_others_of_a_chat_on_fibers() {
    chat("fibers");
}

fn chat(mixin: &str) {
    let Scene { server, mut good, slow } = Scene::of(&CHAT, mixin);
    // The slow members read nothing. Each is disconnected when it lacks more than the 4 MiB that the
    // broadcast keeps, and what the socket buffers hold.
    let names: Vec<String> = slow.names().collect();
    good.wait_until("all have joined", |members| {
        names.iter().all(|name| members.get(name) == Some(&1))
    });
    good.send_much(1, 5 * 1024 * 1024, LONG_LINE);
    good.wait_until("all have left", |members| names.iter().all(|name| members[name] == 0));
    slow.some_read_to_the_end();
    // The good members have received every line, and go on.
    good.talk(CHAT.interval, CHAT.interval);
    check_memory(&server, &CHAT);
    drop(good);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().status, Some(0));
}

/// A server with its good clients, and with slow clients that have become idle.
struct Scene {
    server: Server,
    good: GoodClients,
    slow: SlowClients,
}

impl Scene {
    /// Measures the good clients alone, and then beside the slow ones.
    fn of(service: &Service, mixin: &str) -> Scene {
        assert!(raise_descriptor_limit() >= 2 * (GOOD + SLOW), "a descriptor for each client");
        let server = Server::start(service.example, "127.0.0.1:0", &["--mixin", mixin]);
        let mut good = GoodClients::join(GOOD, service.hears, || (service.join)(&server));
        let idle = good.talk(service.interval, WINDOW);

        let address = server.endpoint().resolve(Scheme::Tcp).unwrap()[0];
        let slow = SlowClients::connect(address, SLOW, service.request);
        if mixin == "threading" {
            wait_until("each has a thread", || status(&server, "Threads") >= GOOD + SLOW);
        }
        if service.announces {
            // Announcing two thousand members takes a while, and is not measured.
            good.wait_until("all are announced", |members| {
                slow.names().all(|name| members.contains_key(&name))
            });
            // More than the socket buffers of a client that does not read.
            good.send_much(1, 128 * 1024, 4096);
        }
        let running = slow.start();
        check_delay(&mut good, service.interval, idle, || {
            format!("{}, {SLOW} slow clients, {} steps", service.example, running.steps())
        });
        Scene { server, good, slow: running.pause() }
    }
}

/// 99 of 100 lines of the good clients are answered not much later than in `idle`.
///
/// Other programs may delay a measurement, so it is repeated until it is good enough: a server
/// that delays its clients does so each time, and fails three times. A measurement in which this
/// program itself had to wait for a processor does not count.
pub(crate) fn check_delay(
    good: &mut GoodClients,
    interval: Duration,
    idle: Duration,
    what: impl Fn() -> String,
) {
    let (mut measured, mut disturbed) = (0, 0);
    loop {
        let before = waited_for_a_processor();
        let beside = good.talk(interval, WINDOW);
        let waited = waited_for_a_processor() - before;
        println!(
            "{}: 99 of 100 within {beside:?}, alone {idle:?}; {waited:?} of {WINDOW:?} without a \
             processor",
            what()
        );
        if beside <= idle + MAX_DELAY {
            break;
        }
        *if waited < WINDOW / 4 { &mut measured } else { &mut disturbed } += 1;
        assert!(measured < 3, "{}: its clients are delayed", what());
        assert!(disturbed < 5, "{}: the machine is too busy to tell", what());
    }
}

/// The peak of the server's memory is within what its limits allow.
fn check_memory(server: &Server, service: &Service) {
    let used = status(server, "VmHWM");
    let bound = service.max_memory + (GOOD + SLOW) * service.max_memory_each;
    println!("{}: at most {used} KiB of memory, allowed are {bound} KiB", service.example);
    assert!(used <= bound);
}

fn status(server: &Server, field: &str) -> usize {
    status_of(server.pid(), field).parse().unwrap()
}

/// How long this thread has been ready to run while others ran
/// ([proc_pid_schedstat](https://docs.kernel.org/scheduler/sched-stats.html)).
fn waited_for_a_processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
