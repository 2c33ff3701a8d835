//! Two thousand clients that mean no good, beside a hundred that do, on servers that are processes
//! of their own: the good ones see no error and hardly a delay, and the server's memory is bounded.


use std::net::TcpStream;
use std::time::Duration;

use common::{bounded, echoes, line_of, tcp, wait_until};
use good::{GoodOnes, Hears};
use parking_lot::Mutex;
use process::Server;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use slow::Crowd;
use socketserver::Scheme;

const GOOD: usize = 100;
const SLOW: usize = 2000;

/// How much later than without the slow ones 99 of 100 answers may come.
const MOST_EXCESS: Duration = Duration::from_millis(100);

/// How long the good ones are watched, without the slow ones and beside them.
const WINDOW: Duration = Duration::from_secs(3);

/// Each of these tests has the machine to itself, as far as this program is concerned.
static ALONE: Mutex<()> = Mutex::new(());

/// What is asked of a server.
struct Service {
    example: &'static str,
    /// Who of the good ones is to hear what another one of them says.
    hears: Hears,
    /// How often each of them says something: so that the hundred of them, and what they are
    /// answered, are no work to speak of, even for a server that was built without optimization.
    pace: Duration,
    /// Connects a good client, who is there when this returns.
    join: fn(&Server) -> TcpStream,
    /// Whether everybody is told who has come.
    tells: bool,
    /// What the slow ones ask for, where they do.
    asks: &'static [u8],
    /// How much memory each client may cost the server, in KiB.
    most_memory_each: usize,
    /// How much more all of them together may.
    most_memory: usize,
}

/// What every thread costs: no handler here reaches further down its stack than 64 KiB, of the
/// 512 KiB that [`socketserver::Threading`] gives it.
const STACK: usize = 64;

/// What a connection keeps at the most of what was read and not used, and of what was written and
/// not sent (`LARGEST` in `connection/input.rs`, `OUTPUT_CAPACITY` in `connection/mod.rs`).
const BUFFERS: usize = 64 + 16;

/// What a handler has of a line of 1 KiB: a vector that grows may have room for twice as much.
const LINE: usize = 2;

/// A long line, in bytes, near the limit of 64 KiB.
const LONG_LINE: usize = 60_000;

/// More than such a program takes without any client, debug information and all.
const PROGRAM: usize = 32 * 1024;

const ECHO: Service = Service {
    example: "echo",
    hears: |listener, speaker| listener == speaker,
    pace: Duration::from_millis(75),
    join: |server| tcp(server.endpoint()),
    tells: false,
    asks: b"What was that? I cannot hear you, and would like to have it all again, please. So:\n",
    most_memory_each: STACK + BUFFERS + LINE,
    most_memory: PROGRAM,
};

const CHAT: Service = Service {
    example: "chat",
    hears: |listener, speaker| listener != speaker,
    pace: Duration::from_secs(2),
    join: |server| {
        let stream = tcp(server.endpoint());
        assert_eq!(line_of(&stream), "You're connected to the chat server\r");
        // It is a member once the server has said so on its standard output.
        assert_eq!(server.line(), format!("Client joined {}", stream.local_addr().unwrap()));
        stream
    },
    tells: true,
    asks: b"",
    // A broadcast keeps, for each member, the rest of one message that could be sent in part.
    most_memory_each: STACK + BUFFERS + LINE + LONG_LINE.div_ceil(1024),
    // And it keeps for all of them 4 MiB that somebody lacks, and as much that was sent meanwhile.
    most_memory: PROGRAM + 2 * 4 * 1024,
};

#[test]
fn good_clients_of_an_echo_server_do_not_notice_two_thousand_slow_ones() {
    echo("threading");
}

#[test]
fn good_clients_of_an_echo_server_on_fibers_do_not_notice_two_thousand_slow_ones() {
    echo("fibers");
}

fn echo(mixin: &str) {
    let _alone = ALONE.lock();
    let Scene { server, good, crowd } = Scene::of(&ECHO, mixin);
    // Newcomers are served as well.
    echoes(server.endpoint(), "newcomer\n");
    check_memory(&server, &ECHO);
    drop((good, crowd));
    server.signal(Signal::TERM);
    assert_eq!(server.ends().status, Some(0));
}

#[test]
fn good_members_of_a_chat_do_not_notice_two_thousand_slow_ones_which_are_let_go_in_the_end() {
    chat("threading");
}

#[test]
fn good_members_of_a_chat_on_fibers_do_not_notice_two_thousand_slow_ones_either() {
    chat("fibers");
}

fn chat(mixin: &str) {
    let _alone = ALONE.lock();
    let Scene { server, mut good, crowd } = Scene::of(&CHAT, mixin);
    // They are members, and take nothing: so each is disconnected once it lacks more than the 4 MiB
    // that the room keeps, and what the system takes for it.
    let names: Vec<String> = crowd.names().collect();
    good.wait_until("all have come", |guests| {
        names.iter().all(|name| guests.get(name) == Some(&1))
    });
    good.say_much(1, 5 * 1024 * 1024, LONG_LINE);
    good.wait_until("all have left", |guests| names.iter().all(|name| guests[name] == 0));
    crowd.some_read_to_the_end();
    // And the good ones have heard every word, and go on.
    good.talk(CHAT.pace, CHAT.pace);
    check_memory(&server, &CHAT);
    drop(good);
    server.signal(Signal::TERM);
    assert_eq!(server.ends().status, Some(0));
}

/// A server with its good clients, and with the slow ones, which have ceased to do anything.
struct Scene {
    server: Server,
    good: GoodOnes,
    crowd: Crowd,
}

impl Scene {
    /// The good ones by themselves, and then beside the slow ones, whom they hardly notice.
    ///
    /// A machine that others use has its moments, so they are watched until they do not: a server
    /// that keeps its clients waiting does so each time, and three times prove it. What happens
    /// while this program itself has to wait for a processor proves nothing.
    fn of(service: &Service, mixin: &str) -> Scene {
        allow_descriptors();
        let server = Server::start(service.example, "127.0.0.1:0", &["--mixin", mixin]);
        let mut good = GoodOnes::join(GOOD, service.hears, || (service.join)(&server));
        let idle = good.talk(service.pace, WINDOW);

        let address = server.endpoint().resolve(Scheme::Tcp).unwrap()[0];
        let crowd = Crowd::connect(address, SLOW, service.asks);
        if mixin == "threading" {
            wait_until("each has a thread", || status(&server, "Threads") >= GOOD + SLOW);
        }
        if service.tells {
            // That two thousand come at once is a lot to tell, and nobody's slowness.
            good.wait_until("all are told who has come", |guests| {
                crowd.names().all(|name| guests.contains_key(&name))
            });
            // More than a system takes for a client that takes nothing.
            good.say_much(1, 128 * 1024, 4096);
        }
        let misbehaving = crowd.misbehave();
        let (mut watched, mut disturbed) = (0, 0);
        loop {
            let before = waited_for_a_processor();
            let hostile = good.talk(service.pace, WINDOW);
            let waited = waited_for_a_processor() - before;
            println!(
                "{}: 99 of 100 within {idle:?}, beside {SLOW} slow ones ({} turns) {hostile:?}; \
                 {waited:?} of {WINDOW:?} without a processor",
                service.example,
                misbehaving.turns()
            );
            if hostile <= idle + MOST_EXCESS {
                break;
            }
            *if waited < WINDOW / 4 { &mut watched } else { &mut disturbed } += 1;
            assert!(watched < 3, "{} keeps its clients waiting", service.example);
            assert!(disturbed < 5, "{}: the machine is too busy to tell", service.example);
        }
        Scene { server, good, crowd: misbehaving.pause() }
    }
}

/// The most memory that the server ever had is within what its limits say.
fn check_memory(server: &Server, service: &Service) {
    let used = status(server, "VmHWM");
    let bound = service.most_memory + (GOOD + SLOW) * service.most_memory_each;
    println!("{}: {used} KiB of memory at the most, the limits are {bound} KiB", service.example);
    assert!(used <= bound);
}

/// A number that the system has about a process
/// ([proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)).
fn status(server: &Server, field: &str) -> usize {
    let path = format!("/proc/{}/status", server.pid().as_raw_nonzero());
    let all = std::fs::read_to_string(path).unwrap();
    let line = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// How long this thread has been ready to run, and another one ran
/// ([proc_pid_schedstat](https://docs.kernel.org/scheduler/sched-stats.html)).
fn waited_for_a_processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// Lets this program, and the servers that it starts, have a descriptor for each client.
fn allow_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = 2 * (GOOD + SLOW) as u64;
    if current.is_some_and(|current| current < wanted) {
        let limit = Rlimit { current: Some(wanted), maximum };
        setrlimit(Resource::Nofile, limit).expect("a descriptor for each client");
    }
}
