//! Several listeners, where the process counts: its descriptors, its processor time, its children.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use socketserver::services::{Echo, Hello};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::mixins::spawnable_mixins;
use crate::support::clients::{ask, echoes, rest_of, round_trip, tcp};
use crate::support::server_process::{Part, ServerProcess, preloadable, serve};
use crate::support::servers::{answers, serve_with};
use crate::support::system::open_descriptors;
use crate::support::{TIMEOUT, TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    listeners_that_come_and_go_leave_no_descriptor_and_no_file,
    a_listener_that_cannot_be_bound_leaves_no_descriptor,
    a_closed_listener_that_another_process_has_takes_no_processor_time,
    a_child_of_a_forking_server_has_none_of_its_listeners,
    a_child_replies_to_a_datagram_of_any_listener,
    a_forking_server_opens_and_closes_listeners_in_the_parent,
    a_host_name_is_listened_to_at_all_of_its_addresses: ["cc"],
];

pub(crate) const PARTS: &[Part] = &[
    ("listeners", serve_listeners),
    ("datagram-listeners", serve_datagram_listeners),
    ("changing-listeners", serve_changing_listeners),
    ("host-name", serve_host_name),
];

fn listeners_that_come_and_go_leave_no_descriptor_and_no_file() {
    for mixin in spawnable_mixins() {
        let directory = TempDir::new();
        let server = serve_with(TcpServer::builder().mixin(mixin), Hello);
        let handle = server.handle();
        let change = || {
            let mut listeners = handle.listen("127.0.0.1:0").unwrap();
            listeners.extend(handle.listen(directory.join("socket")).unwrap());
            for _ in 0..4 {
                echoes_hello(server.local_addr());
                echoes_hello(&listeners[0].local_addr);
            }
            for listener in &listeners {
                assert!(handle.close_listener(listener.id));
            }
            wait_until("they are closed", || handle.listeners().len() == 1);
        };
        change();
        wait_until("all have left", || server.stats().active == 0);
        let before = open_descriptors();
        (0..50).for_each(|_| change());
        // Idle threads have up to eight descriptors to wait with, and may have got some meanwhile.
        wait_until("none is left", || open_descriptors() <= before + 8);
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

#[track_caller]
fn echoes_hello(address: &Address) {
    assert_eq!(rest_of(tcp(address)), b"Hello World!\n");
}

fn a_listener_that_cannot_be_bound_leaves_no_descriptor() {
    let directory = TempDir::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let before = open_descriptors();
    for _ in 0..10 {
        let builder = ThreadingTcpServer::builder().also(directory.join("socket")).also(taken);
        assert!(builder.bind("127.0.0.1:0", Echo).is_err());
    }
    assert_eq!(open_descriptors(), before);
    assert!(!directory.join("socket").exists());
}

/// The processor time of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn a_closed_listener_that_another_process_has_takes_no_processor_time() {
    for mixin in spawnable_mixins() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (elsewhere, address) = (listener.try_clone().unwrap(), listener.local_addr().unwrap());
        let builder = TcpServer::builder().mixin(mixin).also("127.0.0.1:0");
        let server = builder.from_listener(listener, Echo).unwrap().spawn().unwrap();
        let handle = server.handle();
        let [first, other] = &handle.listeners()[..] else { panic!() };
        // Idle threads wait for both from now on.
        (0..8).for_each(|_| echoes(&first.local_addr, "hello\n"));
        assert!(handle.close_listener(first.id));
        wait_until("it is closed", || handle.listeners().len() == 1);
        // It is in the backlog of the other process.
        let _waiting = tcp(address);
        let before = processor_time();
        thread::sleep(Duration::from_millis(200));
        let spent = processor_time() - before;
        assert!(spent < Duration::from_millis(50), "{spent:?}");
        echoes(&other.local_addr, "hello\n");
        assert!(server.stop(TIMEOUT).is_clean());
        elsewhere.set_nonblocking(true).unwrap();
        elsewhere.accept().expect("the server has not accepted it");
    }
}

fn a_child_of_a_forking_server_has_none_of_its_listeners() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let server = ServerProcess::start("listeners", path.to_str().unwrap());
    for endpoint in &server.addresses(3)[..2] {
        let client = tcp(endpoint.clone());
        let descriptors = ask(&client, "descriptors");
        assert_eq!(descriptors.matches("socket:").count(), 1, "{descriptors}");
        assert_eq!(descriptors.matches("eventpoll").count(), 0, "{descriptors}");
        assert_eq!(ask(&client, "listen"), "the server has been shut down");
    }
    let ended = server.stop();
    assert_eq!(ended.count("finished"), 2);
    assert!(!path.exists());
}

fn serve_listeners(path: &str) {
    let handler = answers(|line, connection| match line {
        "listen" => {
            let result = connection.server().listen("127.0.0.1:0");
            Ok(writeln!(connection, "{}", result.unwrap_err())?)
        }
        _ => {
            let open = std::fs::read_dir("/proc/self/fd")?;
            let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            let links: Vec<_> = links.map(|link| link.display().to_string()).collect();
            Ok(writeln!(connection, "{}", links.join(" "))?)
        }
    });
    let builder = ForkingTcpServer::builder().also("127.0.0.1:0").also(path);
    serve(builder.bind("127.0.0.1:0", handler).unwrap());
}

fn a_child_replies_to_a_datagram_of_any_listener() {
    let server = ServerProcess::start("datagram-listeners", &abstract_name());
    let addresses = server.addresses(3);
    for endpoint in addresses.iter().chain(&addresses) {
        // The client's socket is connected to the listener that has to reply.
        assert_eq!(round_trip(endpoint.clone(), b"?"), endpoint.to_string().as_bytes());
    }
    assert_eq!(server.stop().count("finished"), 6);
}

fn serve_datagram_listeners(name: &str) {
    let handler = datagram_handler_fn(|request| {
        let descriptors = std::fs::read_dir("/proc/self/fd")?;
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        assert_eq!(links.filter(|link| link.to_string_lossy().starts_with("socket:")).count(), 1);
        let listener = request.listener().local_addr.clone();
        Ok(write!(request, "{listener}")?)
    });
    let builder = ForkingUdpServer::builder().also("127.0.0.1:0").also(name);
    serve(builder.bind("127.0.0.1:0", handler).unwrap());
}

fn a_forking_server_opens_and_closes_listeners_in_the_parent() {
    let server = ServerProcess::start("changing-listeners", "");
    for _ in 0..3 {
        let opened: Endpoint = server.line().parse().unwrap();
        echoes(opened.clone(), "hello\n");
        server.reads("closed");
        assert!(TcpStream::connect(&opened.resolve(Scheme::Tcp).unwrap()[..]).is_err());
    }
    echoes(server.endpoint(), "hello\n");
    assert!(server.stop().count("finished") >= 4);
}

/// Opens a listener, and closes it when a client has come by it, three times.
fn serve_changing_listeners(_: &str) {
    let (sender, handle) = mpsc::channel::<ServerHandle>();
    let (mut server, mut opened, mut times) = (None, None, 0);
    let change = move || {
        let server = server.get_or_insert_with(|| handle.recv().unwrap());
        match &opened {
            None if times < 3 => {
                let listener = server.listen("127.0.0.1:0").unwrap().remove(0);
                println!("{}", listener.local_addr);
                (opened, times) = (Some(listener), times + 1);
            }
            Some(listener) if server.stats().finished >= times => {
                server.close_listener(listener.id);
                if server.listeners().len() == 1 {
                    println!("closed");
                    opened = None;
                }
            }
            _ => {}
        }
    };
    let builder = ForkingTcpServer::builder().service_actions(Duration::from_millis(1), change);
    let server = builder.bind("127.0.0.1:0", Echo).unwrap();
    sender.send(server.handle()).unwrap();
    serve(server);
}

/// One that finds addresses of both families for `both.example`, of which the second is not this
/// machine's.
const RESOLVER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    static const char *addresses[] = {"::1", "192.0.2.1", "127.0.0.1"};
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!node || strcmp(node, "both.example") != 0)
        return real(node, service, hints, found);
    for (int i = 0; i < 3; i++) {
        int error = real(addresses[i], service, hints, found);
        if (error)
            return error;
        while (*found)
            found = &(*found)->ai_next;
    }
    return 0;
}
"#;

fn a_host_name_is_listened_to_at_all_of_its_addresses() {
    for argument in ["tcp://both.example:0", "udp://both.example:0"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let directory = TempDir::new();
        command.env("LD_PRELOAD", preloadable(&directory, RESOLVER));
        let server = ServerProcess::start_by(command, "host-name", argument);
        let addresses = server.addresses(4);
        let port_of = |of: &Endpoint| of.to_string().rsplit_once(':').unwrap().1.to_owned();
        let ports: Vec<_> = addresses.iter().map(port_of).collect();
        assert_eq!(ports[0], ports[1], "{addresses:?}");
        assert_eq!(ports[2], ports[3], "{addresses:?}");
        for (address, ip) in addresses.iter().zip(["[::1]", "127.0.0.1", "[::1]", "127.0.0.1"]) {
            assert!(address.to_string().contains(ip), "{addresses:?}");
            echoes(address.clone(), "hello");
        }
        server.stop();
    }
}

/// Listens on the name twice.
fn serve_host_name(address: &str) {
    if address.starts_with("udp") {
        return serve(ThreadingUdpServer::builder().also(address).bind(address, Echo).unwrap());
    }
    let server = ThreadingTcpServer::builder().also(address).bind(address, Echo).unwrap();
    // A port that is taken at one of the addresses.
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let error = server.handle().listen(("both.example", taken.port())).unwrap_err();
    let expected = format!("cannot listen on both.example:{} ({taken}): ", taken.port());
    assert!(error.to_string().starts_with(&expected), "{error}");
    TcpListener::bind(("::1", taken.port())).unwrap();
    serve(server);
}
