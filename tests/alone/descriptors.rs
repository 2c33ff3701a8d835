//! Descriptors that a server keeps open. These tests count those of the process.

use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, tcp};
use crate::support::servers::serve_with;
use crate::support::system::open_descriptors;
use crate::support::wait_until;

pub(crate) const TESTS: &[Test] = tests![only_some_of_many_refused_connections_are_kept_open];

fn only_some_of_many_refused_connections_are_kept_open() {
    let builder = ThreadingTcpServer::builder().max_connections(1);
    let server = serve_with(builder.overload(Overload::Refuse("full".into())), Echo);
    let first = tcp(server.local_addr());
    assert_eq!(ask(&first, "hello"), "hello");
    let before = open_descriptors();
    let clients: Vec<_> = (0..300).map(|_| tcp(server.local_addr())).collect();
    wait_until("all are refused", || server.stats().refused == 300);
    let kept = open_descriptors() - before - clients.len();
    assert!(kept < 250, "{kept} refused connections are kept open");
    assert_eq!(ask(&first, "still here"), "still here");
}
