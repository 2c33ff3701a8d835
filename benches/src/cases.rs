//! The cases, and the points of the curves.

use serde::{Deserialize, Serialize};

/// One measurement, the same for every server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) service: Service,
    /// The server's number of worker threads; `None` leaves it to the server.
    #[serde(default)]
    pub(crate) workers: Option<usize>,
    pub(crate) load: Load,
    /// The curve that this is a point of, and its number of connections.
    pub(crate) point: Option<(Curve, usize)>,
}

/// What the server does, and with what for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Service {
    Hello,
    /// A process for each connection.
    ForkingHello,
    Echo,
    Chat,
    /// One datagram at a time.
    UdpEcho,
    /// A thread, a fiber or a task for each datagram.
    ThreadingUdpEcho,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// Connects, reads the greeting up to EOF, and connects again.
    Hello { in_flight: usize },
    /// Sends lines of `size` bytes, with `in_flight` of them unanswered on each connection.
    Echo { connections: usize, size: usize, in_flight: usize },
    /// The same from two client threads, each with half of the connections.
    EchoFromTwo { connections: usize, size: usize, in_flight: usize },
    /// One client sends a line of 64 bytes when the previous one has come back. Another one always
    /// has `in_flight` of them unanswered.
    Flood { in_flight: usize },
    /// Each sender sends lines of 64 bytes, with `in_flight` of them not yet received by all
    /// others.
    Chat { clients: usize, senders: usize, in_flight: usize },
    /// The same with the clients spread over several servers. All of them must read the lines in
    /// one order.
    Room { members: usize, senders: usize, in_flight: usize },
    /// Sends datagrams of 64 bytes, with `in_flight` of them unanswered on each socket.
    Udp { sockets: usize, in_flight: usize },
    /// Connects and exchanges one line. The server's memory is read before and after.
    Idle { connections: usize },
    /// The same connections, and then the server gets `SIGTERM`.
    Stop { connections: usize },
}

/// A chart by number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Curve {
    /// Round trips a second, and the processor time of each.
    Echo,
    Chat,
    Memory,
    Stop,
}

/// The kind of a case's main figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Operations a second, with the operation's name.
    Rate(&'static str),
    /// Bytes for each connection.
    Memory,
    /// Milliseconds from `SIGTERM` to the server's exit.
    Stop,
}

impl Load {
    pub(crate) fn measure(&self) -> Measure {
        match self {
            Load::Hello { .. } => Measure::Rate("connections"),
            Load::Echo { .. }
            | Load::EchoFromTwo { .. }
            | Load::Flood { .. }
            | Load::Udp { .. } => Measure::Rate("round trips"),
            Load::Chat { .. } => Measure::Rate("deliveries"),
            Load::Room { .. } => Measure::Rate("lines"),
            Load::Idle { .. } => Measure::Memory,
            Load::Stop { .. } => Measure::Stop,
        }
    }

    pub(crate) fn ends_the_server(&self) -> bool {
        matches!(self, Load::Stop { .. })
    }

    /// How many sockets the server, and the process of the clients, have open at a time.
    pub(crate) fn descriptors(&self) -> usize {
        match *self {
            Load::Hello { in_flight } => in_flight,
            Load::Flood { .. } => 2,
            Load::Echo { connections, .. }
            | Load::EchoFromTwo { connections, .. }
            | Load::Chat { clients: connections, .. }
            | Load::Room { members: connections, .. }
            | Load::Udp { sockets: connections, .. }
            | Load::Idle { connections }
            | Load::Stop { connections } => connections,
        }
    }
}

/// The cases, in running order.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases_for_all();
    for workers in [1, 2] {
        let on_workers = |name, about, load| Case {
            name: format!("workers-{workers}{name}"),
            about: format!("{about}; server threads: {workers}"),
            service: Service::Echo,
            workers: Some(workers),
            load,
            point: None,
        };
        let echo = Load::EchoFromTwo { connections: 64, size: 64, in_flight: 1 };
        cases.push(on_workers("", "64 connections from two client threads", echo));
        cases.push(on_workers("-fairness", "as in fairness, from two client threads", FLOOD));
    }
    cases
}

/// 1 MiB of lines, so that the server always has input.
const FLOOD: Load = Load::Flood { in_flight: 16 * 1024 };

fn cases_for_all() -> Vec<Case> {
    let echo = |connections, size, in_flight| Load::Echo { connections, size, in_flight };
    let chat = |clients, in_flight| Load::Chat { clients, senders: 10, in_flight };
    [
        (
            "hello",
            "64 clients at a time connect, read the greeting up to EOF, and close",
            Service::Hello,
            Load::Hello { in_flight: 64 },
        ),
        (
            "hello-forking",
            "the same with 16 clients, and a process for each",
            Service::ForkingHello,
            Load::Hello { in_flight: 16 },
        ),
        ("echo-1", "1 connection, lines of 64 bytes", Service::Echo, echo(1, 64, 1)),
        ("echo-64", "64 connections, lines of 64 bytes", Service::Echo, echo(64, 64, 1)),
        ("echo-1000", "1000 connections, lines of 64 bytes", Service::Echo, echo(1000, 64, 1)),
        ("echo-16k", "64 connections, lines of 16 KiB", Service::Echo, echo(64, 16 * 1024, 1)),
        (
            "echo-pipelined",
            "64 connections, lines of 64 bytes, 16 of them in flight on each",
            Service::Echo,
            echo(64, 64, 16),
        ),
        (
            "fairness",
            "one line in flight on 1 connection, while another always has 1 MiB of lines in flight",
            Service::Echo,
            FLOOD,
        ),
        (
            "chat-100",
            "100 members, 10 of which send as fast as they can: 64 lines in flight from each",
            Service::Chat,
            chat(100, 64),
        ),
        (
            "chat-1000",
            "1000 members, 10 of which send as fast as they can: 8 lines in flight from each",
            Service::Chat,
            chat(1000, 8),
        ),
        (
            "chat-turns",
            "100 members, 10 of which send a line when all members have the previous one",
            Service::Chat,
            chat(100, 1),
        ),
        (
            "udp",
            "4 sockets with 32 datagrams of 64 bytes in flight, served one at a time",
            Service::UdpEcho,
            Load::Udp { sockets: 4, in_flight: 32 },
        ),
        (
            "udp-threading",
            "the same, with a thread, a fiber or a task for each datagram",
            Service::ThreadingUdpEcho,
            Load::Udp { sockets: 4, in_flight: 32 },
        ),
        (
            "idle-5000",
            "the server's memory for each of 5000 connections that have exchanged one line",
            Service::Echo,
            Load::Idle { connections: 5000 },
        ),
        (
            "stop-1000",
            "from SIGTERM to the server's exit, with 1000 idle connections",
            Service::Echo,
            Load::Stop { connections: 1000 },
        ),
    ]
    .map(|(name, about, service, load)| Case {
        name: name.to_owned(),
        about: about.to_owned(),
        service,
        workers: None,
        load,
        point: None,
    })
    .to_vec()
}

/// The points of the curves.
pub(crate) fn curves() -> Vec<Case> {
    let mut points = Vec::new();
    let mut curve = |curve, service, name, about, counts: &[usize], load: fn(usize) -> Load| {
        points.extend(counts.iter().map(|&count| Case {
            name: format!("{name}/{count}"),
            about: format!("{count} {about}"),
            service,
            workers: None,
            load: load(count),
            point: Some((curve, count)),
        }));
    };
    curve(
        Curve::Echo,
        Service::Echo,
        "curve-echo",
        "connections, lines of 64 bytes",
        &[1, 10, 100, 1000, 5000, 10_000],
        |connections| Load::Echo { connections, size: 64, in_flight: 1 },
    );
    curve(
        Curve::Chat,
        Service::Chat,
        "curve-chat",
        "members, 10 of which send as fast as they can",
        &[10, 100, 500, 1000],
        // About the same number of deliveries in flight at each point.
        |clients| Load::Chat { clients, senders: 10, in_flight: (8000 / clients).min(64) },
    );
    curve(
        Curve::Memory,
        Service::Echo,
        "curve-memory",
        "idle connections",
        &[100, 300, 1000, 3000, 10_000, 15_000],
        |connections| Load::Idle { connections },
    );
    curve(
        Curve::Stop,
        Service::Echo,
        "curve-stop",
        "idle connections, and SIGTERM",
        &[10, 100, 1000, 3000, 5000, 10_000, 15_000],
        |connections| Load::Stop { connections },
    );
    points
}

/// Whether a name matches a pattern, in which `*` matches any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len())
                .filter(|&at| name.is_char_boundary(at))
                .any(|at| matches(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_text() {
        for (pattern, name, expected) in [
            ("echo-1", "echo-1", true),
            ("echo-1", "echo-1000", false),
            ("echo-*", "echo-1000", true),
            ("*-1*", "echo-1000", true),
            ("*", "", true),
            ("chat*s", "chat-1000", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn no_two_cases_have_the_same_name() {
        let mut names: Vec<String> =
            cases().into_iter().chain(curves()).map(|case| case.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
