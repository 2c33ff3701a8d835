//! The examples' flag `--metrics`, read by Prometheus itself, by its checker, and by plain clients.

use std::fs;
use std::io::Write;
use std::process::Command;

use rustix::process::Signal;
use socketserver::Endpoint;

use crate::examples::{MIXINS, SERVERS};
use crate::harness::{Test, tests};
use crate::support::clients::{echoes, line_of, rest_of, round_trip, tcp, unix};
use crate::support::process::{Process, Server, run};
use crate::support::{TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    a_prometheus_scrapes_a_server_under_each_mixin: ["prometheus"],
    promtool_finds_nothing_to_correct: ["promtool"],
    every_server_has_metrics,
    concurrent_children_of_a_forking_server_are_all_counted,
    a_preforking_server_answers_while_its_children_are_busy,
    openmetrics_is_for_those_that_ask_for_it,
    what_is_no_request_for_the_metrics_is_answered_too,
    metrics_on_a_unix_socket: ["curl"],
    metrics_where_they_cannot_be_are_an_error,
];

/// Starts an example with metrics, and returns where they are.
#[track_caller]
fn start(name: &str, listen: &str, flags: &[&str]) -> (Server, Endpoint) {
    let flags = [&["--metrics", "127.0.0.1:0"], flags].concat();
    let server = Server::start(name, listen, &flags);
    let metrics = server.line().strip_prefix("metrics on ").unwrap().parse().unwrap();
    (server, metrics)
}

/// The answer to a request of these lines: its head and its body.
#[track_caller]
fn ask(metrics: &Endpoint, request: &str) -> (String, String) {
    let mut client = tcp(metrics.clone());
    client.write_all(request.replace('\n', "\r\n").as_bytes()).unwrap();
    let answer = String::from_utf8(rest_of(client)).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[track_caller]
fn scrape(metrics: &Endpoint) -> String {
    let (head, body) = ask(metrics, "GET /metrics HTTP/1.1\nHost: localhost\n\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    body
}

/// The value of a sample, named with its labels.
#[track_caller]
fn value_in(text: &str, sample: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
}

/// A Prometheus that scrapes these targets every tenth of a second, and its address.
fn prometheus(directory: &TempDir, targets: &[String]) -> (Process, Endpoint) {
    let config = format!(
        "global: {{scrape_interval: 100ms, scrape_timeout: 100ms}}\n\
         scrape_configs: [{{job_name: test, static_configs: [{{targets: {targets:?}}}]}}]\n"
    );
    fs::write(directory.join("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command.current_dir(directory.path());
    command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
    command.arg("--web.listen-address=127.0.0.1:0");
    let process = Process::spawn(command);
    let address = loop {
        let line = process.error_line();
        if let Some((_, address)) = line.split_once("msg=\"Listening on\" address=") {
            break address.parse().unwrap();
        }
    };
    (process, address)
}

/// The answer to a query, which is one value for each target, in no order.
fn query(prometheus: &Endpoint, query: &str) -> Vec<String> {
    let (_, body) = ask(prometheus, &format!("GET /api/v1/query?query={query} HTTP/1.0\n\n"));
    // `"value":[TIME,"VALUE"]`
    let values = body.split("\"value\":[").skip(1);
    values.map(|value| value.split('"').nth(1).unwrap().to_owned()).collect()
}

fn a_prometheus_scrapes_a_server_under_each_mixin() {
    let directory = TempDir::new();
    let servers = MIXINS.map(|mixin| start("echo", "127.0.0.1:0", &["--mixin", mixin]));
    for (server, _) in &servers {
        echoes(server.endpoint(), &"x".repeat(1000));
    }
    let targets = servers.each_ref().map(|(_, metrics)| metrics.to_string());
    let (process, prometheus) = prometheus(&directory, &targets);
    for (metric, value) in [
        ("up", "1"),
        ("socketserver_requests_accepted_total", "1"),
        ("socketserver_requests_ended_total%7Breason=%22eof%22%7D", "1"),
        ("socketserver_requests_active", "0"),
        ("socketserver_request_duration_seconds_count", "1"),
        ("socketserver_request_received_bytes_sum", "1000"),
        ("socketserver_request_sent_bytes_bucket%7Ble=%221024.0%22%7D", "1"),
    ] {
        let expected = [value; MIXINS.len()];
        wait_until(metric, || query(&prometheus, metric) == expected);
    }
    process.signal(Signal::TERM);
    assert_eq!(process.wait().status, Some(0));
    for (server, _) in servers {
        server.stop();
    }
}

fn promtool_finds_nothing_to_correct() {
    let (server, metrics) = start("echo", "127.0.0.1:0", &[]);
    echoes(server.endpoint(), "hello");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    let ended = run(command, scrape(&metrics));
    assert_eq!((ended.status, ended.text(), &*ended.stderr), (Some(0), "", ""));
    server.stop();
}

fn every_server_has_metrics() {
    for (name, address) in SERVERS {
        let listen =
            if address.starts_with("unix") { abstract_name() } else { "127.0.0.1:0".to_owned() };
        let (server, metrics) = start(name, &listen, &[]);
        assert_eq!(value_in(&scrape(&metrics), "socketserver_requests_accepted_total"), 0.0);
        server.stop();
    }
}

fn concurrent_children_of_a_forking_server_are_all_counted() {
    const CHILDREN: usize = 30;
    let (server, metrics) = start("echo", "127.0.0.1:0", &["--mixin", "forking"]);
    let clients = [(); CHILDREN].map(|()| tcp(server.endpoint()));
    for client in &clients {
        let mut client = client;
        client.write_all(b"hello\n").unwrap();
        assert_eq!(line_of(client), "hello");
    }
    assert_eq!(value_in(&scrape(&metrics), "socketserver_requests_active"), CHILDREN as f64);
    // All of them end at a time.
    drop(clients);
    wait_until("all have ended", || {
        value_in(&scrape(&metrics), "socketserver_requests_finished_total") == CHILDREN as f64
    });
    let text = scrape(&metrics);
    for (sample, value) in [
        ("socketserver_request_duration_seconds_count", CHILDREN),
        ("socketserver_request_received_bytes_bucket{le=\"64\"}", CHILDREN),
        ("socketserver_request_received_bytes_sum", 6 * CHILDREN),
        ("socketserver_request_sent_bytes_sum", 6 * CHILDREN),
    ] {
        assert_eq!(value_in(&text, sample), value as f64, "{sample}");
    }
    server.stop();
}

fn a_preforking_server_answers_while_its_children_are_busy() {
    let (server, metrics) =
        start("echo", "127.0.0.1:0", &["--mixin", "prefork", "--children", "2"]);
    // Each child begins to answer soon after its start.
    let active = || value_in(&scrape(&metrics), "socketserver_requests_active");
    assert_eq!(active(), 0.0);
    let clients = [(); 2].map(|()| tcp(server.endpoint()));
    for mut client in &clients {
        client.write_all(b"hello\n").unwrap();
        assert_eq!(line_of(client), "hello");
    }
    assert_eq!(active(), 2.0);
    drop(clients);
    wait_until("both have ended", || active() == 0.0);
    let text = scrape(&metrics);
    assert_eq!(value_in(&text, "socketserver_request_received_bytes_sum"), 12.0);
    assert_eq!(value_in(&text, "socketserver_request_duration_seconds_count"), 2.0);
    server.stop();
}

fn openmetrics_is_for_those_that_ask_for_it() {
    let (server, metrics) = start("hello", "127.0.0.1:0", &[]);
    assert_eq!(round_trip(server.endpoint(), b""), b"Hello World!\n");
    wait_until("it has ended", || {
        value_in(&scrape(&metrics), "socketserver_requests_finished_total") == 1.0
    });
    // As Prometheus 2.42 asks.
    const ACCEPT: &str = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let request = format!("GET /metrics HTTP/1.1\nHost: localhost\nAccept: {ACCEPT}\n\n");
    let (head, body) = ask(&metrics, &request);
    let media_type = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(media_type), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    assert!(body.contains("# TYPE socketserver_requests_accepted counter\n"), "{body}");
    assert!(body.contains("# UNIT socketserver_request_duration_seconds seconds\n"), "{body}");
    assert_eq!(value_in(&body, "socketserver_requests_accepted_total"), 1.0);
    assert_eq!(value_in(&body, "socketserver_request_sent_bytes_sum"), 13.0);
    server.stop();
}

fn what_is_no_request_for_the_metrics_is_answered_too() {
    for mixin in ["threading", "forking"] {
        let (server, metrics) = start("hello", "127.0.0.1:0", &["--mixin", mixin]);
        for (request, status) in [
            ("GET / HTTP/1.1\n\n", "404 Not Found"),
            ("GET /metricsx HTTP/1.1\n\n", "404 Not Found"),
            ("GET /metrics?a=b HTTP/1.0\n\n", "200 OK"),
            ("POST /metrics HTTP/1.1\nContent-Length: 0\n\n", "405 Method Not Allowed"),
            ("\n\nGET  /metrics\n\n", "404 Not Found"),
        ] {
            let (head, body) = ask(&metrics, request);
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {head}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        }
        let (head, body) = ask(&metrics, "HEAD /metrics HTTP/1.1\n\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body.is_empty(), "{head}, {body}");
        // No head, or more of it than there may be: closed without an answer.
        for request in ["GET /metr", &"x: y\n".repeat(200), &"x".repeat(9000)] {
            let mut client = tcp(metrics.clone());
            client.write_all(request.as_bytes()).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(rest_of(client), b"");
        }
        // Clients that do not end their request hold up neither the server nor a scrape.
        let silent = [(); 8].map(|()| tcp(metrics.clone()));
        assert_eq!(round_trip(server.endpoint(), b""), b"Hello World!\n");
        assert_eq!(value_in(&scrape(&metrics), "socketserver_requests_accepted_total"), 1.0);
        drop(silent);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().status, Some(0));
    }
}

fn metrics_on_a_unix_socket() {
    let name = abstract_name();
    let flags = ["--metrics", &format!("unix:{name}")];
    let server = Server::start("echo", "127.0.0.1:0", &flags);
    assert_eq!(server.line(), format!("metrics on unix:{name}"));
    let mut client = unix(format!("unix:{name}").parse::<Endpoint>().unwrap());
    client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    assert!(rest_of(client).starts_with(b"HTTP/1.1 200 OK\r\n"));
    let mut command = Command::new("curl");
    match name.strip_prefix('@') {
        Some(name) => command.args(["--abstract-unix-socket", name]),
        None => command.args(["--unix-socket", &name]),
    };
    command.args(["-s", "http://localhost/metrics"]);
    let ended = run(command, "");
    assert_eq!(value_in(ended.text(), "socketserver_requests_active"), 0.0);
    server.stop();
}

fn metrics_where_they_cannot_be_are_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (flags, status, error) in [
        (["--metrics", &taken, "--listen", "127.0.0.1:0"], 1, "in use"),
        (["--metrics", "nowhere", "--listen", "127.0.0.1:0"], 2, "nowhere"),
        (["--metrics", "127.0.0.1:0", "--listen", "inetd"], 2, "--listen inetd"),
        (["--metrics", "unix:@x", "--mixin", "prefork"], 2, "--mixin prefork"),
    ] {
        let mut command = crate::support::process::example("echo");
        command.args(flags);
        let ended = run(command, "");
        assert_eq!(ended.status, Some(status), "{flags:?}");
        assert!(ended.stderr.contains(error), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1);
    }
}
