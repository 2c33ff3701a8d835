//! Proxies that are not of this package: HAProxy and nginx.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use super::TempDir;
use super::clients::tcp;
use super::process::Process;

/// A listening socket that a proxy inherits, by its number.
fn inherited() -> (TcpListener, i32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let number = listener.as_raw_fd();
    (listener, number)
}

/// A proxy that is running. A client waits in the listener's backlog until it accepts.
pub(crate) struct Proxy {
    process: Process,
    pub(crate) listener: TcpListener,
    _directory: TempDir,
}

impl Proxy {
    /// HAProxy before a server at this address, with these options of `bind` and `server`.
    pub(crate) fn haproxy(server: &str, bind: &str, options: &str) -> Proxy {
        let (listener, number) = inherited();
        let directory = TempDir::new();
        let configuration = directory.join("haproxy.cfg");
        let server = server.replace("unix:", "unix@");
        let text = format!(
            "defaults\n mode tcp\n timeout connect 10s\n timeout client 30s\n timeout server 30s\n\
             listen proxy\n bind fd@{number} {bind}\n unique-id-format %cp\n \
             server server {server} {options}\n"
        );
        std::fs::write(&configuration, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&configuration);
        Proxy { process: Process::spawn(command), listener, _directory: directory }
    }

    pub(crate) fn nginx(server: &str) -> Proxy {
        let (listener, number) = inherited();
        let directory = TempDir::new();
        let configuration = directory.join("nginx.conf");
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so; daemon off; \
             error_log stderr; pid {}; events {{}} \
             stream {{ server {{ listen {}; proxy_pass {server}; proxy_protocol on; }} }}",
            directory.join("pid").display(),
            listener.local_addr().unwrap(),
        );
        std::fs::write(&configuration, text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory.path()).arg("-c").arg(&configuration);
        // Listening sockets by their numbers, as a new nginx gets them from an old one.
        command.args(["-e", "stderr"]).env("NGINX", format!("{number};"));
        Proxy { process: Process::spawn(command), listener, _directory: directory }
    }

    pub(crate) fn client(&self) -> TcpStream {
        tcp(self.listener.local_addr().unwrap())
    }

    pub(crate) fn stop(self) {
        self.process.signal(Signal::TERM);
        self.process.wait();
    }
}
