//! What the clients notice: servers with a fault, and the same without it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::{Load, Outcome, Target, run};

/// Which line, or datagram, of those a server sees the fault is with. By then there are always
/// more to come.
const FAULTY: usize = 50;

const ECHO: Load = Load::Echo { connections: 2, size: 64, in_flight: 4 };
const ECHO_FROM_TWO: Load = Load::EchoFromTwo { connections: 2, size: 64, in_flight: 4 };
const FLOOD: Load = Load::Flood { in_flight: 64 };
const HELLO: Load = Load::Hello { in_flight: 2 };
const CHAT: Load = Load::Chat { clients: 3, senders: 2, in_flight: 4 };
const ROOM: Load = Load::Room { members: 4, senders: 2, in_flight: 4 };
const UDP: Load = Load::Udp { sockets: 2, in_flight: 4 };

const MEASURED: Duration = Duration::from_millis(200);

/// What is done to each line: it and its number in, what is sent instead out.
type Fault = fn(usize, &[u8]) -> Vec<Vec<u8>>;

fn none(_: usize, line: &[u8]) -> Vec<Vec<u8>> {
    vec![line.to_vec()]
}

fn lost(number: usize, line: &[u8]) -> Vec<Vec<u8>> {
    if number == FAULTY { Vec::new() } else { none(number, line) }
}

fn repeated(number: usize, line: &[u8]) -> Vec<Vec<u8>> {
    if number == FAULTY { vec![line.to_vec(); 2] } else { none(number, line) }
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
fn an_honest_server_is_measured() {
    for (load, server) in [
        (ECHO, serve(echo, none)),
        (ECHO_FROM_TWO, serve(echo, none)),
        (FLOOD, serve(echo, none)),
        (HELLO, serve(hello, none)),
        (CHAT, serve_chat(none, false)),
        (ROOM, serve_chat(none, false)),
        (UDP, serve_datagrams(none)),
    ] {
        let figures = ask(load, server).unwrap();
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
        none(number, line)
    };
    for (load, server) in [
        (ECHO, serve(echo, slow)),
        (ECHO_FROM_TWO, serve(echo, slow)),
        (FLOOD, serve(echo, slow)),
        (HELLO, serve(hello, slow)),
        (CHAT, serve_chat(slow, false)),
    ] {
        // That nothing happened meanwhile may be said.
        if let Err(error) = ask(load, server) {
            assert!(error.starts_with("nothing was done in"), "{error}");
        }
    }
}

#[test]
fn an_echo_that_is_not_what_was_sent_is_noticed() {
    for load in [ECHO, ECHO_FROM_TWO, FLOOD] {
        for fault in [lost, repeated, damaged, without_a_byte, with_a_byte_more] {
            let error = ask(load, serve(echo, fault)).unwrap_err();
            // The client that has a line in flight at a time, beside one that floods, may see no
            // more of it than that something is missing, or too much.
            let seen = ["is not what was sent", "never came back", "more than were sent"];
            assert!(seen.iter().any(|seen| error.contains(seen)), "{load:?}: {error}");
        }
    }
}

#[test]
fn a_line_of_a_client_on_the_other_thread_is_noticed() {
    // Each client's first line is answered with that of the client who came first.
    let confusing: Fault = |number, line| {
        static FIRST: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        let mut first = FIRST.lock().unwrap();
        match number {
            1 => first.extend_from_slice(line),
            2 => return none(number, &first),
            _ => {}
        }
        none(number, line)
    };
    let error = ask(ECHO_FROM_TWO, serve(echo, confusing)).unwrap_err();
    assert!(error.contains("connection 1: line 0 is not what was sent"), "{error}");
}

#[test]
fn beside_a_flood_only_the_other_client_is_timed() {
    const PAUSE: Duration = Duration::from_millis(5);
    let slow_for_one: Handler = |stream, _| {
        each_line(stream, |line, out| {
            if line.starts_with(b"00000000") {
                thread::sleep(PAUSE);
            }
            let _ = out.write_all(line);
        });
    };
    let figures = ask(FLOOD, serve(slow_for_one, none)).unwrap();
    assert!(figures.value <= 1.0 / PAUSE.as_secs_f64(), "{figures:?}");
    assert!(figures.p50_us >= Some(0.99 * PAUSE.as_micros() as f64), "{figures:?}");
}

#[test]
fn two_lines_that_change_places_are_noticed() {
    let swapping: Handler = |stream, _| {
        let mut held = Vec::new();
        let mut number = 0;
        each_line(stream, |line, out| {
            number += 1;
            // With four lines in flight, another one always follows.
            if number == FAULTY {
                held = line.to_vec();
                return;
            }
            let _ = out.write_all(line).and_then(|()| out.write_all(&held));
            held.clear();
        });
    };
    let error = ask(ECHO, serve(swapping, none)).unwrap_err();
    assert!(error.contains("is not what was sent"), "{error}");
}

#[test]
fn bytes_behind_the_last_answer_are_noticed() {
    let talkative: Handler = |mut stream, _| {
        each_line(stream, |line, out| _ = out.write_all(line));
        let _ = stream.write_all(b"one more thing\n");
    };
    let error = ask(ECHO, serve(talkative, none)).unwrap_err();
    assert!(error.contains("15 bytes before its end"), "{error}");
}

#[test]
fn a_connection_that_is_closed_early_is_noticed() {
    let impatient: Handler = |mut stream, _| {
        let mut line = Vec::new();
        let _ = BufReader::new(stream).read_until(b'\n', &mut line);
        let _ = stream.write_all(&line);
    };
    let error = ask(ECHO, serve(impatient, none)).unwrap_err();
    // Which of them it is depends on whether the next line was there already.
    let said = ["was closed after", "reset", "Broken pipe"];
    assert!(said.iter().any(|said| error.contains(said)), "{error}");
}

#[test]
fn another_greeting_is_noticed() {
    for fault in [lost, repeated, damaged, without_a_byte, with_a_byte_more] {
        let error = ask(HELLO, serve(hello, fault)).unwrap_err();
        assert!(error.contains("greet"), "{error}");
    }
}

#[test]
fn a_chat_that_does_not_pass_on_each_line_once_is_noticed() {
    for (fault, said) in [
        (lost as Fault, "and not line"),
        (repeated, "again"),
        (damaged, "got"),
        (without_a_byte, "got"),
        (with_a_byte_more, "got"),
    ] {
        let error = ask(CHAT, serve_chat(fault, false)).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_room_whose_members_read_lines_in_different_orders_is_noticed() {
    // One who sends nothing reads two lines of different senders in the other order.
    let (mut senders, mut seen, mut held) = (HashSet::new(), 0, None);
    let server = serve_room(false, move |reader, line| {
        let sender = line.split(|&byte| byte == b' ').next().unwrap_or_default().to_vec();
        seen += 1;
        senders.insert(sender.clone());
        let sends = senders.contains(format!("[{reader}]").as_bytes());
        match &mut held {
            None if seen > 4 * FAULTY && !sends => held = Some((reader, sender, line.to_vec())),
            Some((whose, of, lines)) if *whose == reader && !lines.is_empty() => {
                if *of != sender {
                    return [line, &std::mem::take(lines)].concat();
                }
                lines.extend_from_slice(line);
            }
            _ => return line.to_vec(),
        }
        Vec::new()
    });
    let error = ask(ROOM, server).unwrap_err();
    assert!(error.starts_with("not one order"), "{error}");
}

#[test]
fn a_notice_of_a_room_that_is_not_whole_is_noticed() {
    let cut_off: Fault = |number, line| match number {
        FAULTY => vec![b"* Cut off from the other servers\r\n".to_vec(), line.to_vec()],
        _ => none(number, line),
    };
    let error = ask(ROOM, serve_chat(cut_off, false)).unwrap_err();
    assert!(error.contains("got \"* Cut off"), "{error}");
}

#[test]
fn a_room_that_falls_silent_ends_with_an_error() {
    let silent: Fault =
        |number, line| if number < FAULTY { none(number, line) } else { Vec::new() };
    let error = ask(ROOM, serve_chat(silent, false)).unwrap_err();
    assert!(error.ends_with("deliveries are missing"), "{error}");
}

#[test]
fn a_line_that_comes_back_to_its_sender_is_noticed() {
    let error = ask(CHAT, serve_chat(none, true)).unwrap_err();
    assert!(error.contains("got its own line"), "{error}");
}

#[test]
fn damaged_and_repeated_datagrams_are_noticed_and_lost_ones_counted() {
    for (fault, said) in [
        (repeated as Fault, "twice"),
        (damaged, "that nobody sent"),
        (without_a_byte, "that nobody sent"),
        (with_a_byte_more, "that nobody sent"),
    ] {
        let error = ask(UDP, serve_datagrams(fault)).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(ask(UDP, serve_datagrams(lost)).unwrap().lost, 1);
}

/// The server is this process, since all that is asked of it is how much processor time it used.
fn ask(load: Load, address: SocketAddr) -> Outcome {
    let target = Target { address, server: std::process::id(), measured: MEASURED };
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(run(&load, &[target], None)));
    outcome.recv_timeout(Duration::from_secs(60)).expect("the clients come to an end")
}

type Handler = fn(&TcpStream, &mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>);

/// Serves until the tests end.
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

/// A chat in which what somebody reads instead of a line depends on who it is.
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
