//! A system without `pidfd_open`.

use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use socketserver::ForkingTcpServer;
use socketserver::Handled;
use socketserver::services::Echo;

use crate::harness::{Test, tests};
use crate::support::clients::rest_of;
use crate::support::server_process::{Part, ServerProcess, announce};

pub(crate) const TESTS: &[Test] = tests![
    a_forking_server_does_not_start_without_pidfd_open,
    a_request_is_refused_without_pidfd_open,
];

pub(crate) const PARTS: &[Part] = &[
    ("no-pidfd", serve_without_pidfd_open),
    ("no-pidfd-for-one", handle_request_without_pidfd_open),
];

fn a_forking_server_does_not_start_without_pidfd_open() {
    for (errno, text) in
        [("ENOSYS", "Function not implemented"), ("EPERM", "Operation not permitted")]
    {
        let ended = ServerProcess::start("no-pidfd", errno).wait();
        let mut lines = ended.lines();
        let error = lines.next().unwrap();
        assert!(error.contains("pidfd_open") && error.contains(text), "{ended:?}");
    }
}

fn a_request_is_refused_without_pidfd_open() {
    let server = ServerProcess::start("no-pidfd-for-one", "ENOSYS");
    let client = server.client();
    assert!(rest_of(&client).is_empty());
    let ended = server.wait();
    assert_eq!(["active", "refused", "failed"].map(|name| ended.count(name)), [0, 1, 0]);
    assert_eq!((ended.logged("pidfd_open"), ended.logged("")), (1, 1), "{ended:?}");
}

// The servers.

fn serve_without_pidfd_open(errno: &str) {
    forbid_pidfd_open(errno);
    let server = ForkingTcpServer::bind("127.0.0.1:0", Echo).unwrap();
    announce(server.local_addr());
    println!("{}", server.serve_forever().unwrap_err());
}

fn handle_request_without_pidfd_open(errno: &str) {
    forbid_pidfd_open(errno);
    let server = ForkingTcpServer::bind("127.0.0.1:0", Echo).unwrap();
    announce(server.local_addr());
    assert_eq!(server.handle_request(), Handled::Request);
    println!("{:?}", server.handle().stats());
}

/// As old containers do, by `ENOSYS` or `EPERM`.
fn forbid_pidfd_open(errno: &str) {
    let errno = if errno == "EPERM" { Errno::PERM } else { Errno::NOSYS };
    let rules = [(libc::SYS_pidfd_open, Vec::new())].into();
    let refused = SeccompAction::Errno(errno.raw_os_error() as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
