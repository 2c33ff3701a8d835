//! Servers under the seccomp filter of a container that forbids what is new or seldom used: each mixin
//! serves without it, or says at the start what it lacks. Each server is a process of its own.

use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use socketserver::{Builder, services::Echo, transport::Tcp};

use crate::harness::{Test, tests};
use crate::mixins::mixin_named;
use crate::support::clients::echoes;
use crate::support::server_process::{Part, ServerProcess, announce, serve};

pub(crate) const TESTS: &[Test] = tests![
    servers_need_no_system_call_that_containers_forbid,
    a_forking_server_says_at_the_start_that_it_lacks_pidfd_open,
];

pub(crate) const PARTS: &[Part] = &[("contained", serve_contained)];

const MIXINS: &[&str] = &[
    "sequential",
    "threading",
    #[cfg(feature = "fibers")]
    "fibers",
];

fn servers_need_no_system_call_that_containers_forbid() {
    for mixin in MIXINS {
        let server = ServerProcess::start("contained", mixin);
        for number in 0..5 {
            echoes(server.endpoint(), &format!("{mixin} {number}\n"));
        }
        let ended = server.stop();
        assert_eq!(ended.stderr, "", "{mixin}");
    }
}

fn a_forking_server_says_at_the_start_that_it_lacks_pidfd_open() {
    if cfg!(socketserver_portable) {
        return;
    }
    let server = ServerProcess::start("contained", "forking");
    let ended = server.wait();
    assert!(ended.lines().any(|line| line.contains("pidfd_open")), "{ended:?}");
}

fn serve_contained(mixin: &str) {
    forbid(&[
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_openat2,
        libc::SYS_pidfd_open,
        libc::SYS_clone3,
        libc::SYS_memfd_create,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_bpf,
    ]);
    let server = Builder::<Tcp, _>::new(mixin_named(mixin)).bind("127.0.0.1:0", Echo).unwrap();
    if mixin == "forking" {
        announce(server.local_addr());
        return println!("{}", server.serve_forever().unwrap_err());
    }
    serve(server);
}

/// By `ENOSYS`, which glibc takes for an older system.
fn forbid(calls: &[libc::c_long]) {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(Errno::NOSYS.raw_os_error() as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
