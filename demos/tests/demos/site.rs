//! A folder, and `http_files` that serves it.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use rustix::io::Errno;
use rustix::process::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::demos::demo;
use crate::support::TempDir;
use crate::support::clients::{line_of, rest_of, tcp};
use crate::support::process::Server;

pub(crate) const HELLO: &str = "Hello, world!\n";

/// The content of a file beside the root, which must never be sent.
pub(crate) const SECRET: &str = "not for you";

pub(crate) struct Site {
    // In this order, so that the server has ended when the folder is removed.
    server: Server,
    folder: TempDir,
}

impl Site {
    #[track_caller]
    pub(crate) fn start(flags: &[&str]) -> Site {
        Site::listen("127.0.0.1:0", flags)
    }

    #[track_caller]
    pub(crate) fn listen(address: &str, flags: &[&str]) -> Site {
        let mut command = demo("http_files");
        command.args(["--listen", address]).args(flags);
        Site::spawn(command)
    }

    /// Starts `http_files` where openat2 fails with this error.
    #[track_caller]
    pub(crate) fn without_openat2(errno: Errno) -> Site {
        // The filter holds for the thread that installs it, and for its child processes.
        thread::scope(|scope| {
            let start = || {
                let refused = SeccompAction::Errno(errno.raw_os_error() as u32);
                let rules = [(libc::SYS_openat2, Vec::new())].into();
                let arch = std::env::consts::ARCH.try_into().unwrap();
                let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch);
                let program: BpfProgram = filter.unwrap().try_into().unwrap();
                seccompiler::apply_filter(&program).unwrap();
                Site::start(&[])
            };
            scope.spawn(start).join().unwrap()
        })
    }

    /// Starts a command that runs `http_files`.
    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Site {
        let folder = TempDir::new();
        let root = folder.join("root");
        for name in ["sub", "page"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::write(folder.join("secret.txt"), SECRET).unwrap();
        for (name, content) in [
            ("hello.txt", HELLO),
            ("empty.txt", ""),
            ("sub/inner.txt", "inside\n"),
            ("page/index.html", "<p>A page"),
        ] {
            std::fs::write(root.join(name), content).unwrap();
        }
        // Without `--root`, the current directory is the root.
        command.current_dir(&root);
        Site { server: Server::spawn(command), folder }
    }

    /// The path of a file or folder beneath the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join("root").join(name)
    }

    #[track_caller]
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Writes a sparse file, which uses no space on the disk.
    #[track_caller]
    pub(crate) fn write_zeros(&self, name: &str, length: u64) {
        std::fs::File::create(self.path(name)).unwrap().set_len(length).unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> TcpStream {
        tcp(self.server.endpoint())
    }

    /// Requests a path, which is sent unchanged, on a new connection.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[])
    }

    /// Sends a request with these header fields and no body, on a new connection.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, fields: &[&str]) -> Answer {
        let mut stream = self.connect();
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Answer::next(stream)
    }

    /// Sends these bytes on a new connection, and reads until the server closes it.
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes.as_ref()).unwrap();
        Answer::of(&rest_of(stream))
    }

    /// Stops by SIGTERM, with nothing on standard error.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.server.stop();
    }

    pub(crate) fn into_server(self) -> (Server, TempDir) {
        (self.server, self.folder)
    }
}

/// The response to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Splits bytes into a head and a body, which is all that follows the head.
    #[track_caller]
    pub(crate) fn of(bytes: &[u8]) -> Answer {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else { panic!("no answer: {}", bytes.escape_ascii()) };
        Answer::new(str::from_utf8(&bytes[..end]).unwrap(), bytes[end + 4..].into())
    }

    /// Reads the next response, and no byte more.
    #[track_caller]
    pub(crate) fn next(mut stream: impl Read) -> Answer {
        let mut head = String::new();
        loop {
            let line = line_of(&mut stream);
            if line == "\r" {
                break;
            }
            assert!(line.ends_with('\r'), "after {head:?}: {line:?}");
            head += &(line + "\n");
        }
        let mut answer = Answer::new(&head, Vec::new());
        let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body).unwrap();
        answer
    }

    #[track_caller]
    fn new(head: &str, body: Vec<u8>) -> Answer {
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.unwrap_or_else(|| panic!("no status: {head}")).parse().unwrap();
        Answer { status, head: head.to_owned(), body }
    }

    pub(crate) fn field(&self, wanted: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// Asserts that this is an error with a page as its body.
    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, connection: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.field("connection"), Some(connection), "{self:?}");
        assert_eq!(self.field("content-length"), Some(&*self.body.len().to_string()), "{self:?}");
        assert!(self.text().contains(&format!("<h1>{status} ")), "{self:?}");
    }
}
