//! What is measured: each case, and the curves.

use serde::{Deserialize, Serialize};

/// One thing to measure, the same for every server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) service: Service,
    /// How many threads the server is to run on, where that is not its own choice.
    #[serde(default)]
    pub(crate) workers: Option<usize>,
    pub(crate) load: Load,
    /// It is a point of a curve, at this number of connections.
    pub(crate) point: Option<(Curve, usize)>,
}

/// What the server does, and in which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Service {
    Hello,
    /// With a process for each connection.
    ForkingHello,
    Echo,
    Chat,
    /// One datagram after the other.
    UdpEcho,
    /// With a thread, a fiber or a task for each datagram.
    ThreadingUdpEcho,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// Connects, reads the greeting to its end, and connects again.
    Hello { in_flight: usize },
    /// Sends lines of `size` bytes, `in_flight` of them ahead of what has come back.
    Echo { connections: usize, size: usize, in_flight: usize },
    /// The same from two threads, each with half of the connections.
    EchoFromTwo { connections: usize, size: usize, in_flight: usize },
    /// One client sends a line of 64 bytes when the one before has come back, another one always
    /// has `in_flight` of them on their way.
    Flood { in_flight: usize },
    /// Some of the clients send lines of 64 bytes, `in_flight` of them ahead of what everybody has.
    Chat { clients: usize, senders: usize, in_flight: usize },
    /// The same, with a part of the clients at each of several servers, and all of them must read
    /// the lines in one order.
    Room { members: usize, senders: usize, in_flight: usize },
    /// Sends datagrams of 64 bytes, `in_flight` of them ahead of what has come back.
    Udp { sockets: usize, in_flight: usize },
    /// Connects, sends a line, and then nothing; what a connection costs is read.
    Idle { connections: usize },
    /// The same, and then the server is told to stop.
    Stop { connections: usize },
}

/// What is drawn by the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Curve {
    /// Round trips a second, and what each costs.
    Echo,
    Chat,
    Memory,
    Stop,
}

/// What a case's main figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Operations a second, which are called this.
    Rate(&'static str),
    /// Bytes for each connection.
    Memory,
    /// Milliseconds from the signal to the server's end.
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

    /// How many descriptors the server has open at a time, and the clients as well.
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

/// The cases, in the order in which they are run.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases_for_all();
    for workers in [1, 2] {
        let on_workers = |name, about, load| Case {
            name: format!("workers-{workers}{name}"),
            about: format!("{about} of clients, {workers} of the server's"),
            service: Service::Echo,
            workers: Some(workers),
            load,
            point: None,
        };
        let echo = Load::EchoFromTwo { connections: 64, size: 64, in_flight: 1 };
        cases.push(on_workers("", "64 connections from two threads", echo));
        cases.push(on_workers("-fairness", "as in fairness, from two threads", FLOOD));
    }
    cases
}

/// Always so many that the server has something to read.
const FLOOD: Load = Load::Flood { in_flight: 16 * 1024 };

fn cases_for_all() -> Vec<Case> {
    let echo = |connections, size, in_flight| Load::Echo { connections, size, in_flight };
    let chat = |clients, in_flight| Load::Chat { clients, senders: 10, in_flight };
    [
        (
            "hello",
            "64 clients at a time connect, read the greeting to its end, and leave",
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
            "a line there and back on 1 connection, while another always has 1 MiB of them in flight",
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
            "100 members, 10 of which send a line when everybody has the one before",
            Service::Chat,
            chat(100, 1),
        ),
        (
            "udp",
            "4 sockets with 32 datagrams of 64 bytes in flight, served one after the other",
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
            "what each of 5000 connections costs that have sent a line, and are silent",
            Service::Echo,
            Load::Idle { connections: 5000 },
        ),
        (
            "stop-1000",
            "from SIGTERM to the server's end, with 1000 idle connections",
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
    let mut curve = |curve, service, name, about, at: &[usize], load: fn(usize) -> Load| {
        points.extend(at.iter().map(|&count| Case {
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
        // About as many deliveries in flight at each point.
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

/// Whether a name fits a pattern in which `*` stands for anything.
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
    fn a_star_stands_for_anything() {
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
