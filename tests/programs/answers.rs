//! What the example servers answer. The chats are in `chat.rs` and `named_chat.rs`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use jiff::civil::DateTime;
use rustix::process::Signal;

use crate::examples::{MIXINS, frame, sum_frame, without_time};
use crate::harness::{Test, tests};
use crate::support::clients::{
    ask, datagram_of, echoes, line_of, reset, rest_of, round_trip, tcp, udp, unix,
};
use crate::support::process::Server;
use crate::support::{TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    hello_greets_and_closes,
    echo_on_four_transports_under_every_mixin_returns_all_bytes,
    a_silent_client_delays_no_other_under_threading_and_forking,
    a_client_that_resets_harms_no_other,
    a_line_that_is_too_long_ends_its_connection_only,
    greeter_greets_each_name,
    timestamp_sends_lines_back_with_the_time,
    framed_adds_up,
    framed_refuses_frames_that_are_too_long_or_no_numbers,
    embed_reports_its_progress_and_stops,
    ticker_pushes_the_time_and_answers_meanwhile,
    store_answers_and_wakes_those_that_wait_for_a_key,
    many_clients_at_a_time_each_get_their_own_answers,
];

fn hello_greets_and_closes() {
    for mixin in MIXINS {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let server = Server::start("hello", listen, &["--mixin", mixin]);
            for _ in 0..3 {
                assert_eq!(rest_of(tcp(server.endpoint())), b"Hello World!\n");
            }
            server.stop();
        }
    }
    let server = Server::start("hello", &abstract_name(), &[]);
    assert_eq!(rest_of(unix(server.endpoint())), b"Hello World!\n");
    server.stop();
}

/// Every byte, many times, in lines of different lengths.
fn all_bytes() -> Vec<u8> {
    (0..=255u8).cycle().take(20_000).collect()
}

fn echo_on_four_transports_under_every_mixin_returns_all_bytes() {
    let directory = TempDir::new();
    let path = directory.join("socket").display().to_string();
    for mixin in MIXINS {
        for listen in [
            "127.0.0.1:0".to_owned(),
            "[::1]:0".to_owned(),
            "udp://127.0.0.1:0".to_owned(),
            "udp://[::1]:0".to_owned(),
            format!("unix:{path}"),
            format!("unix:{}", abstract_name()),
            format!("unixgram:{path}"),
            format!("unixgram:{}", abstract_name()),
        ] {
            let server = Server::start("echo", &listen, &["--mixin", mixin]);
            for data in [all_bytes(), b"no end".into(), b"\n".into(), vec![0; 30_000]] {
                let answer = round_trip(server.endpoint(), &data);
                assert!(answer == data, "{mixin} {listen}: {:?}", answer.escape_ascii());
            }
            server.stop();
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

fn a_silent_client_delays_no_other_under_threading_and_forking() {
    for mixin in ["threading", "forking"] {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        let silent = tcp(server.endpoint());
        echoes(server.endpoint(), "one\n");
        echoes(server.endpoint(), "two\n");
        assert_eq!(ask(&silent, "at last"), "at last");
        server.stop();
    }
}

fn a_client_that_resets_harms_no_other() {
    for mixin in MIXINS {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        reset(tcp(server.endpoint()));
        let client = tcp(server.endpoint());
        assert_eq!(ask(&client, "here"), "here");
        reset(client);
        let client = tcp(server.endpoint());
        (&client).write_all(b"never answered\n").unwrap();
        reset(client);
        echoes(server.endpoint(), "still here\n");
        // Nothing is logged: `stop` checks that.
        server.stop();
    }
}

fn a_line_that_is_too_long_ends_its_connection_only() {
    const LIMIT: usize = 64 * 1024;
    for mixin in MIXINS {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        client.write_all(&[b'x'; LIMIT + 1]).unwrap();
        assert_eq!(rest_of(client), b"", "{mixin}");
        // A forking server logs the end of the child too.
        while !server.error_line().contains("line too long (limit 65536 bytes)") {}

        let mut longest = vec![b'x'; LIMIT];
        longest[LIMIT - 1] = b'\n';
        let mut client = tcp(server.endpoint());
        let mut answer = vec![0; LIMIT];
        client.write_all(&longest).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert!(answer == longest);
        drop(client);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().status, Some(0));
    }
}

fn greeter_greets_each_name() {
    for mixin in MIXINS {
        let server = Server::start("greeter", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        assert_eq!(line_of(&client), "Welcome!\r");
        assert_eq!(ask(&client, "Ada"), "Hello, Ada!\r");
        assert_eq!(ask(&client, "Grace Hopper\r"), "Hello, Grace Hopper!\r");
        client.write_all(b"exit\r\nnever read\n").unwrap();
        assert_eq!(rest_of(&client), b"");

        let all = round_trip(server.endpoint(), b"\xff\n\nexit?\nno end");
        let expected =
            b"Welcome!\r\nHello, \xff!\r\nHello, !\r\nHello, exit?!\r\nHello, no end!\r\n";
        assert_eq!(all, expected);
        server.stop();
    }
}

fn timestamp_sends_lines_back_with_the_time() {
    for mixin in MIXINS {
        let server = Server::start("timestamp", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        assert_eq!(without_time(&ask(&client, "what time is it?")), "what time is it?");
        assert_eq!(without_time(&ask(&client, "telnet\r")), "telnet\r");
        client.write_all(b"no end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let rest = String::from_utf8(rest_of(client)).unwrap();
        assert_eq!(without_time(&rest), "no end");
        server.stop();

        let server = Server::start("timestamp", "udp://127.0.0.1:0", &["--mixin", mixin]);
        let client = udp(server.endpoint());
        for text in ["a datagram", "with an end\n", ""] {
            client.send(text.as_bytes()).unwrap();
            let answer = datagram_of(|buffer| client.recv(buffer));
            assert_eq!(without_time(str::from_utf8(&answer).unwrap()), text);
        }
        server.stop();
    }
}

fn framed_adds_up() {
    for mixin in MIXINS {
        let server = Server::start("framed", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        let largest = vec![i32::MAX; 1024];
        for (numbers, sum) in [
            (&[1, 2][..], 3),
            (&[], 0),
            (&[-1, 0, 3], 2),
            (&[i32::MIN, i32::MIN], 2 * i64::from(i32::MIN)),
            (&largest, 1024 * i64::from(i32::MAX)),
        ] {
            client.write_all(&frame(numbers)).unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[..], sum_frame(sum));
        }
        // One frame byte by byte, and two at once.
        for byte in frame(&[40, 2]) {
            client.write_all(&[byte]).unwrap();
        }
        client.write_all(&[frame(&[5]), frame(&[6])].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest_of(client), [sum_frame(42), sum_frame(5), sum_frame(6)].concat());
        server.stop();
    }
}

fn framed_refuses_frames_that_are_too_long_or_no_numbers() {
    for mixin in MIXINS {
        let server = Server::start("framed", "127.0.0.1:0", &["--mixin", mixin]);
        for (bad, complaint) in [
            (&b"\xff\xff\xff\xff"[..], "message of 4294967295 bytes is too long (limit 4096"),
            (b"\x00\x00\x10\x01", "message of 4097 bytes is too long"),
            (b"GET / HTTP/1.1\r\n\r\n", "is too long"),
            (b"\x00\x00\x00\x03abc", "3 bytes are no list of numbers"),
        ] {
            let mut client = tcp(server.endpoint());
            // The frame before is answered.
            client.write_all(&[&frame(&[1]), bad].concat()).unwrap();
            assert_eq!(rest_of(client), sum_frame(1));
            // A forking server logs the end of the child too.
            while !server.error_line().contains(complaint) {}
        }
        // Frames that end early.
        for bad in [&b"\x00\x00"[..], b"\x00\x00\x00\x08\x00\x00"] {
            let mut client = tcp(server.endpoint());
            client.write_all(bad).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(rest_of(client), b"");
        }
        let mut client = tcp(server.endpoint());
        client.write_all(&frame(&[2, 3])).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest_of(client), sum_frame(5));
        server.signal(Signal::TERM);
        assert_eq!(server.wait().status, Some(0));
    }
}

fn embed_reports_its_progress_and_stops() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    for mixin in ["sequential", "threading"] {
        for signal in [None, Some(Signal::TERM), Some(Signal::INT)] {
            let address = format!("unix:{}", path.display());
            let server = Server::start("embed", &address, &["--mixin", mixin]);
            let control = unix(server.endpoint());
            let status = ask(&control, "status");
            let (ticks, seconds) =
                status.strip_suffix(" s").unwrap().split_once(" ticks in ").unwrap();
            let (_, _): (u64, f64) = (ticks.parse().unwrap(), seconds.parse().unwrap());
            wait_until("a tick", || !ask(&control, "status").starts_with("0 ticks"));
            assert_eq!(ask(&control, "what?"), "status or stop?");
            let ended = match signal {
                Some(signal) => server.stop_by(signal),
                None => {
                    (&control).write_all(b"stop\n").unwrap();
                    server.wait()
                }
            };
            assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
            assert_eq!(rest_of(control), b"");
            let last = ended.text();
            assert!(last.starts_with("stopped") && last.ends_with("cut off: 0\n"), "{last}");
            assert_eq!(last.lines().count(), 1);
            assert!(!path.exists());
        }
    }
}

fn ticker_pushes_the_time_and_answers_meanwhile() {
    for mixin in ["threading", "fibers"] {
        let server =
            Server::start("ticker", "127.0.0.1:0", &["--mixin", mixin, "--interval", "0.02"]);
        let clients = [(); 3].map(|()| tcp(server.endpoint()));
        let is_tick = |line: &str| DateTime::strptime("%a %b %e %H:%M:%S %Y", line).is_ok();
        for client in &clients {
            (0..3).for_each(|_| assert!(is_tick(&line_of(client))));
        }
        let answer = |mut client: &TcpStream, line: &str| {
            client.write_all(line.as_bytes()).unwrap();
            std::iter::repeat_with(|| line_of(client)).find(|line| !is_tick(line)).unwrap()
        };
        assert_eq!(answer(&clients[0], "clients\n"), "3 clients");
        assert_eq!(answer(&clients[1], "time\n"), "clients?");
        let [_gone, _too, last] = clients;
        drop((_gone, _too));
        wait_until("the others have left", || answer(&last, "clients\n") == "1 clients");
        server.stop();
        rest_of(last);
    }
}

fn store_answers_and_wakes_those_that_wait_for_a_key() {
    for mixin in ["threading", "fibers"] {
        let server = Server::start("store", "127.0.0.1:0", &["--mixin", mixin]);
        let waiting = [(); 3].map(|()| tcp(server.endpoint()));
        for mut client in &waiting {
            client.write_all(b"WAIT colour\n").unwrap();
        }
        let client = tcp(server.endpoint());
        for (line, answer) in [
            ("GET colour", "NONE"),
            ("SET other a b  c", "OK"),
            ("GET other", "a b  c"),
            ("DEL other", "OK"),
            ("DEL other", "NONE"),
            ("GET", "ERROR: SET KEY VALUE, GET KEY, DEL KEY or WAIT KEY"),
            ("SET colour red", "OK"),
            ("WAIT colour", "red"),
        ] {
            assert_eq!(ask(&client, line), answer, "{line}");
        }
        for client in &waiting {
            assert_eq!(line_of(client), "red");
        }
        // A stop ends a wait for what does not come.
        (&client).write_all(b"WAIT never\n").unwrap();
        server.stop();
        assert_eq!(rest_of(client), b"NONE\n");
    }
}

fn many_clients_at_a_time_each_get_their_own_answers() {
    for mixin in ["threading", "forking"] {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        thread::scope(|scope| {
            for client in 0..20 {
                let endpoint = server.endpoint();
                scope.spawn(move || {
                    let stream = tcp(endpoint);
                    for line in 0..20 {
                        let text = format!("client {client}, line {line}");
                        assert_eq!(ask(&stream, &text), text);
                    }
                });
            }
        });
        server.stop();
    }
}
