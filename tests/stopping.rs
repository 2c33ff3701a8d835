//! What a stop owes to a client that has not read its answers yet.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use common::{PATIENCE, bounded, next};
use socketserver::{Connection, Handled, HandlerResult, StreamRequestHandler, ThreadingTcpServer};

/// More than fits into a small client's buffer, less than the system takes for it at once.
const ANSWER: usize = 1024 * 1024;

struct Answer {
    written: mpsc::Sender<()>,
    finished: mpsc::Sender<()>,
}

impl StreamRequestHandler for Answer {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        connection.write_all(&vec![b'x'; ANSWER])?;
        self.written.send(())?;
        // Until the client, or the stop, ends the input.
        std::io::copy(connection, &mut std::io::sink())?;
        Ok(())
    }

    fn finish(&self, _connection: &mut Connection) -> HandlerResult {
        Ok(self.finished.send(())?)
    }
}

/// A client whose own buffer is small, so that most of an answer stays with the server.
fn slow_client(server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

#[test]
fn a_client_that_is_still_sending_gets_its_whole_answer() {
    let _bound = bounded();
    let ((written, is_written), (finished, is_finished)) = (mpsc::channel(), mpsc::channel());
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Answer { written, finished });
    let server = server.unwrap().spawn().unwrap();
    let mut client = slow_client(server.local_addr().socket_addr().unwrap());
    next(&is_written);
    let handle = server.handle();
    let stop = std::thread::spawn(move || handle.stop(PATIENCE));
    // The handler has read end-of-file, which was the stop's, and the connection is being closed.
    next(&is_finished);
    for _ in 0..10 {
        client.write_all(b"and another thing\n").unwrap();
    }
    let mut answer = Vec::new();
    // After the answer the end may be a reset: what was sent last will never be read.
    let _ = client.read_to_end(&mut answer);
    assert_eq!(answer.len(), ANSWER);
    let report = stop.join().unwrap();
    assert_eq!((report.drained, report.forced), (1, 0), "{report:?}");
}

#[test]
fn a_client_that_never_reads_is_cut_off_at_the_deadline() {
    let _bound = bounded();
    let ((written, is_written), (finished, _is_finished)) = (mpsc::channel(), mpsc::channel());
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Answer { written, finished });
    let server = server.unwrap().spawn().unwrap();
    let _client = slow_client(server.local_addr().socket_addr().unwrap());
    next(&is_written);
    let report = server.stop(Duration::from_millis(500));
    assert_eq!((report.drained, report.forced), (0, 1), "{report:?}");
    assert!(report.stuck.is_empty(), "{report:?}");
}

#[test]
fn dropping_a_server_ends_what_handle_request_has_left_running() {
    let _bound = bounded();
    let ((written, _is_written), (finished, is_finished)) = (mpsc::channel(), mpsc::channel());
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Answer { written, finished }).unwrap();
    let client = TcpStream::connect(server.local_addr().socket_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(server.handle_request(), Handled::Request);
    let reader = std::thread::spawn(move || common::rest_of(client).len());
    let handle = server.handle();
    drop(server);
    // No waiting here: all of it was over when the drop returned.
    is_finished.try_recv().expect("the handler has ended");
    assert_eq!(handle.stats().active, 0);
    assert_eq!(reader.join().unwrap(), ANSWER);
}
