//! The clients against servers with a fault, and without one.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::{Load, Outcome, Target, run};

/// The number of the line or datagram that a server handles wrongly. More of them always follow.
const FAULTY: usize = 50;

const ECHO: Load = Load::Echo { connections: 2, size: 64, in_flight: 4 };
const ECHO_FROM_TWO: Load = Load::EchoFromTwo { connections: 2, size: 64, in_flight: 4 };
const FLOOD: Load = Load::Flood { in_flight: 64 };
const HELLO: Load = Load::Hello { in_flight: 2 };
const CHAT: Load = Load::Chat { clients: 3, senders: 2, in_flight: 4 };
const ROOM: Load = Load::Room { members: 4, senders: 2, in_flight: 4 };
const UDP: Load = Load::Udp { sockets: 2, in_flight: 4 };

const MEASURED: Duration = Duration::from_millis(200);

/// Given the number of a line and the line, returns what the server sends instead.
type Fault = fn(usize, &[u8]) -> Vec<Vec<u8>>;

fn intact(_: usize, line: &[u8]) -> Vec<Vec<u8>> {
    vec![line.to_vec()]
}

fn lost(number: usize, line: &[u8]) -> Vec<Vec<u8>> {
    if number == FAULTY { Vec::new() } else { intact(number, line) }
}

fn repeated(number: usize, line: &[u8]) -> Vec<Vec<u8>> {
    if number == FAULTY { vec![line.to_vec(); 2] } else { intact(number, line) }
}

fn damaged(number: usize, line: &[u8]) -> Vec<Vec<u8>> {
    let mut line = line.to_vec();
    let middle = line.len() / 2;
    line[middle] ^= u8::from(number == FAULTY);
    vec![line]
}

fn without_a_byte(number: usize, line: &[u8]) -> Vec<Vec<u8>> {
    let mut line = line.to_vec();
    if number == FAULTY {
        line.remove(line.len() / 2);
    }
    vec![line]
}

fn with_a_byte_more(number: usize, line: &[u8]) -> Vec<Vec<u8>> {
    let mut line = line.to_vec();
    if number == FAULTY {
        line.insert(line.len() / 2, b'x');
    }
    vec![line]
}

#[test]
fn a_correct_server_is_measured() {
    for (load, server) in [
        (ECHO, serve(echo, intact)),
        (ECHO_FROM_TWO, serve(echo, intact)),
        (FLOOD, serve(echo, intact)),
        (HELLO, serve(hello, intact)),
        (CHAT, serve_chat(intact, false)),
        (ROOM, serve_chat(intact, false)),
        (UDP, serve_datagrams(intact)),
    ] {
        let figures = measure(load, server).unwrap();
        assert!(figures.value > 0.0 && figures.operations > 0, "{figures:?}");
        assert!(figures.p50_us <= figures.p99_us && figures.lost == 0, "{figures:?}");
    }
}

#[test]
fn a_server_that_pauses_beyond_the_measured_time_is_waited_for() {
    let slow: Fault = |number, line| {
        if number == FAULTY {
            thread::sleep(2 * MEASURED);
        }
        intact(number, line)
    };
    for (load, server) in [
        (ECHO, serve(echo, slow)),
        (ECHO_FROM_TWO, serve(echo, slow)),
        (FLOOD, serve(echo, slow)),
        (HELLO, serve(hello, slow)),
        (CHAT, serve_chat(slow, false)),
    ] {
        // The error that there was no operation is allowed.
        if let Err(error) = measure(load, server) {
            assert!(error.starts_with("nothing was done in"), "{error}");
        }
    }
}

#[test]
fn a_wrong_echo_is_an_error() {
    for load in [ECHO, ECHO_FROM_TWO, FLOOD] {
        for fault in [lost, repeated, damaged, without_a_byte, with_a_byte_more] {
            let error = measure(load, serve(echo, fault)).unwrap_err();
            // A client with one line in flight may only detect that bytes are missing, or that
            // there are too many.
            let expected = ["is not what was sent", "never came back", "more than were sent"];
            assert!(expected.iter().any(|text| error.contains(text)), "{load:?}: {error}");
        }
    }
}

#[test]
fn a_line_of_a_client_on_the_other_thread_is_an_error() {
    // Both clients get the first line of the first client.
    let misdelivered: Fault = |number, line| {
        static FIRST: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        let mut first = FIRST.lock().unwrap();
        match number {
            1 => first.extend_from_slice(line),
            2 => return intact(number, &first),
            _ => {}
        }
        intact(number, line)
    };
    let error = measure(ECHO_FROM_TWO, serve(echo, misdelivered)).unwrap_err();
    assert!(error.contains("connection 1: line 0 is not what was sent"), "{error}");
}

#[test]
fn latencies_beside_a_flood_are_those_of_the_other_client() {
    const PAUSE: Duration = Duration::from_millis(5);
    let slow_for_first: Handler = |stream, _| {
        each_line(stream, |line, out| {
            if line.starts_with(b"00000000") {
                thread::sleep(PAUSE);
            }
            let _ = out.write_all(line);
        });
    };
    let figures = measure(FLOOD, serve(slow_for_first, intact)).unwrap();
    assert!(figures.value <= 1.0 / PAUSE.as_secs_f64(), "{figures:?}");
    assert!(figures.p50_us >= Some(0.99 * PAUSE.as_micros() as f64), "{figures:?}");
}

#[test]
fn two_swapped_lines_are_an_error() {
    let swapping: Handler = |stream, _| {
        let mut held = Vec::new();
        let mut number = 0;
        each_line(stream, |line, out| {
            number += 1;
            // Four lines are in flight, so another one follows.
            if number == FAULTY {
                held = line.to_vec();
                return;
            }
            let _ = out.write_all(line).and_then(|()| out.write_all(&held));
            held.clear();
        });
    };
    let error = measure(ECHO, serve(swapping, intact)).unwrap_err();
    assert!(error.contains("is not what was sent"), "{error}");
}

#[test]
fn bytes_after_the_last_answer_are_an_error() {
    let trailing: Handler = |mut stream, _| {
        each_line(stream, |line, out| _ = out.write_all(line));
        let _ = stream.write_all(b"one more thing\n");
    };
    let error = measure(ECHO, serve(trailing, intact)).unwrap_err();
    assert!(error.contains("15 bytes before EOF"), "{error}");
}

#[test]
fn a_connection_that_is_closed_early_is_an_error() {
    let closing: Handler = |mut stream, _| {
        let mut line = Vec::new();
        let _ = BufReader::new(stream).read_until(b'\n', &mut line);
        let _ = stream.write_all(&line);
    };
    let error = measure(ECHO, serve(closing, intact)).unwrap_err();
    // With the next line unread the server's close sends an RST.
    let expected = ["was closed after", "reset", "Broken pipe"];
    assert!(expected.iter().any(|text| error.contains(text)), "{error}");
}

#[test]
fn another_greeting_is_an_error() {
    for fault in [lost, repeated, damaged, without_a_byte, with_a_byte_more] {
        let error = measure(HELLO, serve(hello, fault)).unwrap_err();
        assert!(error.contains("greet"), "{error}");
    }
}

#[test]
fn a_chat_line_that_is_not_delivered_once_is_an_error() {
    for (fault, expected) in [
        (lost as Fault, "and not line"),
        (repeated, "again"),
        (damaged, "got"),
        (without_a_byte, "got"),
        (with_a_byte_more, "got"),
    ] {
        let error = measure(CHAT, serve_chat(fault, false)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn members_of_a_room_that_read_different_orders_are_an_error() {
    // One member that sends nothing reads two lines of different senders swapped.
    let (mut senders, mut seen, mut held) = (HashSet::new(), 0, None);
    let server = serve_room(false, move |reader, line| {
        let sender = line.split(|&byte| byte == b' ').next().unwrap_or_default().to_vec();
        seen += 1;
        senders.insert(sender.clone());
        let sends = senders.contains(format!("[{reader}]").as_bytes());
        match &mut held {
            None if seen > 4 * FAULTY && !sends => held = Some((reader, sender, line.to_vec())),
            Some((held_from, held_sender, lines)) if *held_from == reader && !lines.is_empty() => {
                if *held_sender != sender {
                    return [line, &std::mem::take(lines)].concat();
                }
                lines.extend_from_slice(line);
            }
            _ => return line.to_vec(),
        }
        Vec::new()
    });
    let error = measure(ROOM, server).unwrap_err();
    assert!(error.starts_with("not one order"), "{error}");
}

#[test]
fn a_notice_that_the_room_is_cut_off_is_an_error() {
    let cut_off: Fault = |number, line| match number {
        FAULTY => vec![b"* Cut off from the other servers\r\n".to_vec(), line.to_vec()],
        _ => intact(number, line),
    };
    let error = measure(ROOM, serve_chat(cut_off, false)).unwrap_err();
    assert!(error.contains("got \"* Cut off"), "{error}");
}

#[test]
fn a_room_without_deliveries_is_an_error() {
    let silent: Fault =
        |number, line| if number < FAULTY { intact(number, line) } else { Vec::new() };
    let error = measure(ROOM, serve_chat(silent, false)).unwrap_err();
    assert!(error.ends_with("deliveries are missing"), "{error}");
}

#[test]
fn a_line_that_its_sender_gets_is_an_error() {
    let error = measure(CHAT, serve_chat(intact, true)).unwrap_err();
    assert!(error.contains("got its own line"), "{error}");
}

#[test]
fn damaged_and_repeated_datagrams_are_errors_and_lost_ones_are_counted() {
    for (fault, expected) in [
        (repeated as Fault, "twice"),
        (damaged, "that was not sent"),
        (without_a_byte, "that was not sent"),
        (with_a_byte_more, "that was not sent"),
    ] {
        let error = measure(UDP, serve_datagrams(fault)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(measure(UDP, serve_datagrams(lost)).unwrap().lost, 1);
}

/// Runs the clients. The server's PID is that of this process, which gives its processor time.
fn measure(load: Load, address: SocketAddr) -> Outcome {
    let target = Target { address, pid: std::process::id(), measured: MEASURED };
    let (sender, outcome) = mpsc::channel();
    thread::spawn(move || sender.send(run(&load, &[target], None)));
    outcome.recv_timeout(Duration::from_secs(60)).expect("the clients end in time")
}

type Handler = fn(&TcpStream, &mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>);

/// Starts a server that runs until the test process exits.
fn serve(handler: Handler, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let seen = Arc::new(Mutex::new(0));
        for stream in listener.incoming() {
            let (stream, seen) = (stream.unwrap(), seen.clone());
            thread::spawn(move || {
                handler(&stream, &mut |line| {
                    let mut seen = seen.lock().unwrap();
                    *seen += 1;
                    fault(*seen, line)
                });
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

fn each_line(stream: &TcpStream, mut handle: impl FnMut(&[u8], &mut &TcpStream)) {
    let (mut reader, mut line) = (BufReader::new(stream), Vec::new());
    while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        handle(&line, &mut &*stream);
        line.clear();
    }
}

fn echo(stream: &TcpStream, fault: &mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>) {
    each_line(stream, |line, out| _ = out.write_all(&fault(line).concat()));
}

fn hello(mut stream: &TcpStream, fault: &mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>) {
    let _ = stream.write_all(&fault(b"Hello World!\n").concat());
}

fn serve_chat(fault: Fault, to_the_sender_too: bool) -> SocketAddr {
    let mut seen = 0;
    serve_room(to_the_sender_too, move |_, line| {
        seen += 1;
        fault(seen, line).concat()
    })
}

/// A chat. `read` returns what a member reads instead of a line.
fn serve_room(
    to_the_sender_too: bool,
    read: impl FnMut(SocketAddr, &[u8]) -> Vec<u8> + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let room = Arc::new(Mutex::new((Vec::<TcpStream>::new(), read)));
    let serve = move |stream: TcpStream| {
        let name = stream.peer_addr().unwrap();
        let mut writer = stream.try_clone().unwrap();
        writer.write_all(b"You're connected to the chat server\r\n").unwrap();
        room.lock().unwrap().0.push(writer);
        each_line(&stream, |line, _| {
            let line = str::from_utf8(line).unwrap().trim_end();
            let mut room = room.lock().unwrap();
            let (members, read) = &mut *room;
            for mut member in members.iter() {
                let reader = member.peer_addr().unwrap();
                if to_the_sender_too || reader != name {
                    let _ =
                        member.write_all(&read(reader, format!("[{name}] {line}\r\n").as_bytes()));
                }
            }
        });
    };
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve_datagrams(fault: Fault) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for number in 1.. {
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            for datagram in fault(number, &buffer[..length]) {
                let _ = socket.send_to(&datagram, peer);
            }
        }
    });
    address
}
