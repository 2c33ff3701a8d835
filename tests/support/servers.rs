//! Servers that run beside a test, in its process.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::{SockAddr, Socket, Type};
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::*;

use super::system::raise_descriptor_limit;
use super::{TIMEOUT, abstract_name, bound_test};

/// A TCP server with a thread per connection, running, on a free port.
#[track_caller]
pub(crate) fn serve<H>(handler: H) -> RunningServer
where
    H: IntoHandler<dyn StreamRequestHandler>,
{
    serve_with(ThreadingTcpServer::builder(), handler)
}

/// The same with other settings, or over UDP.
#[track_caller]
pub(crate) fn serve_with<T, M, H>(builder: Builder<T, M>, handler: H) -> RunningServer
where
    T: Transport,
    M: Spawnable,
    H: IntoHandler<T::Handler>,
{
    serve_at("127.0.0.1:0", builder, handler)
}

/// The same at an address of any kind.
#[track_caller]
pub(crate) fn serve_at<T, M, H>(address: &str, builder: Builder<T, M>, handler: H) -> RunningServer
where
    T: Transport,
    M: Spawnable,
    H: IntoHandler<T::Handler>,
{
    bound_test();
    builder.bind(address, handler).unwrap().spawn().unwrap()
}

/// A listener whose queue is longer than the default backlog.
#[track_caller]
pub(crate) fn long_queue(address: &SockAddr) -> Socket {
    let socket = Socket::new(address.domain(), Type::STREAM, None).unwrap();
    socket.bind(address).unwrap();
    socket.listen(3000).unwrap();
    socket
}

/// More connections than the default backlog, as far as the system lets them wait.
#[track_caller]
pub(crate) fn many_connections() -> usize {
    raise_descriptor_limit();
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    most.trim().parse::<usize>().unwrap().min(1300)
}

/// The mixins that run beside a test: by one thread, and by a thread for each request.
pub(crate) fn both_mixins() -> [Box<dyn Spawnable>; 2] {
    [Box::new(Sequential), Box::new(Threading::new())]
}

/// Runs a test with one handler on servers of both stream transports, by both mixins.
pub(crate) fn on_every_stream_server<H: StreamRequestHandler>(
    handler: H,
    settings: impl Settings,
    test: impl Fn(&RunningServer),
) {
    let handler = Arc::new(handler);
    let run = |server: RunningServer| {
        test(&server);
        let address = server.local_addr().clone();
        let report = server.stop(TIMEOUT);
        assert!(report.is_clean(), "{address}: {report:?}");
    };
    for mixin in both_mixins() {
        let builder = settings.apply(TcpServer::builder().mixin(mixin));
        run(serve_with(builder, handler.clone()));
    }
    for mixin in both_mixins() {
        let builder = settings.apply(UnixStreamServer::builder().mixin(mixin));
        run(serve_at(&format!("unix:{}", abstract_name()), builder, handler.clone()));
    }
}

/// Settings for a server of any transport.
pub(crate) trait Settings {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M>;
}

/// Settings for a stream server.
pub(crate) trait StreamSettings {
    fn apply<T, M>(&self, builder: Builder<T, M>) -> Builder<T, M>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
        M: Mixin;
}

impl<S: Settings> StreamSettings for S {
    fn apply<T, M>(&self, builder: Builder<T, M>) -> Builder<T, M>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
        M: Mixin,
    {
        Settings::apply(self, builder)
    }
}

/// The defaults.
impl Settings for () {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder
    }
}

/// A handler that calls this for each line of the client's, without its end.
pub(crate) fn answers<F>(answer: F) -> impl StreamRequestHandler
where
    F: Fn(&str, &mut Connection) -> HandlerResult + Send + Sync + 'static,
{
    handler_fn(move |connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            answer(line.trim_end(), connection)?;
            line.clear();
        }
        Ok(())
    })
}

/// Echoes one line, and is done.
pub(crate) fn echo_once(connection: &mut Connection) -> HandlerResult {
    let mut line = Vec::new();
    connection.read_line(&mut line)?;
    Ok(connection.write_all(&line)?)
}

/// Echoes whatever comes, not only lines.
pub(crate) fn echo_bytes(connection: &mut Connection) -> HandlerResult {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match connection.read(&mut buffer)? {
            0 => return Ok(()),
            length => connection.write_all(&buffer[..length])?,
        }
    }
}

/// Writes without end.
pub(crate) fn flood(connection: &mut Connection) -> HandlerResult {
    loop {
        connection.write_all(&[b'x'; 65_536])?;
    }
}

/// An echo handler that keeps in `most` how many of its requests were served at a time.
pub(crate) fn counting_echo(most: &Arc<AtomicUsize>) -> impl StreamRequestHandler {
    let (most, now) = (most.clone(), AtomicUsize::new(0));
    handler_fn(move |connection| {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let result = StreamRequestHandler::handle(&Echo, connection);
        now.fetch_sub(1, Ordering::SeqCst);
        result
    })
}
