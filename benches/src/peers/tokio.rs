//! Servers on tokio, with a task for each connection.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ::tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use ::tokio::net::{TcpListener, TcpStream, UdpSocket, tcp::OwnedReadHalf};
use ::tokio::sync::mpsc;

use super::{GREETING, HELLO};
use crate::cases::Service;

pub(super) fn serve(service: Service, workers: Option<usize>, address: &str) -> io::Result<()> {
    let mut runtime = ::tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        runtime.worker_threads(workers);
    }
    let runtime = runtime.enable_io().build()?;
    let address = address.to_owned();
    // The future of `block_on` itself does not run on the runtime's workers, so it spawns a task.
    runtime.block_on(async move { ::tokio::spawn(listen(service, address)).await? })
}

async fn listen(service: Service, address: String) -> io::Result<()> {
    match service {
        Service::Hello | Service::ForkingHello => serve_each(&address, hello).await,
        Service::Echo => serve_each(&address, echo).await,
        Service::Chat => {
            let room = Arc::new(Room::default());
            serve_each(&address, move |stream| chat(stream, room.clone())).await
        }
        Service::UdpEcho => echo_datagrams(&address).await,
        Service::ThreadingUdpEcho => echo_datagrams_in_tasks(&address).await,
    }
}

async fn serve_each<F, R>(address: &str, handler: F) -> io::Result<()>
where
    F: Fn(TcpStream) -> R,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        ::tokio::spawn(handler(stream));
    }
}

async fn hello(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(HELLO).await
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await? > 0 {
        writer.write_all(&line).await?;
        line.clear();
    }
    Ok(())
}

type Line = Arc<str>;

/// A queue for each member, as in tokio's chat example.
#[derive(Default)]
struct Room(Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<Line>>>);

impl Room {
    fn send_to_others(&self, from: SocketAddr, line: String) {
        let line = Line::from(line);
        for (address, queue) in self.0.lock().unwrap().iter() {
            if *address != from {
                // The task of a closed connection removes it.
                let _ = queue.send(line.clone());
            }
        }
    }
}

async fn chat(stream: TcpStream, room: Arc<Room>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let name = stream.peer_addr()?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(GREETING.as_bytes()).await?;
    let (queue, mut lines) = mpsc::unbounded_channel();
    room.0.lock().unwrap().insert(name, queue);
    room.send_to_others(name, format!("Client joined {name}\r\n"));
    ::tokio::spawn(async move {
        // All queued lines leave with one write.
        let (mut queued, mut bytes) = (Vec::<Line>::new(), Vec::new());
        while lines.recv_many(&mut queued, 1024).await > 0 {
            bytes.clear();
            queued.drain(..).for_each(|line| bytes.extend_from_slice(line.as_bytes()));
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let outcome = forward_lines(reader, name, &room).await;
    room.0.lock().unwrap().remove(&name);
    room.send_to_others(name, format!("Client left {name}\r\n"));
    outcome
}

async fn forward_lines(reader: OwnedReadHalf, name: SocketAddr, room: &Room) -> io::Result<()> {
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        room.send_to_others(name, format!("[{name}] {line}\r\n"));
    }
    Ok(())
}

async fn echo_datagrams(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address).await?;
    println!("listening on {}", socket.local_addr()?);
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..length], peer).await?;
    }
}

async fn echo_datagrams_in_tasks(address: &str) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::bind(address).await?);
    println!("listening on {}", socket.local_addr()?);
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        let (socket, datagram) = (socket.clone(), buffer[..length].to_vec());
        ::tokio::spawn(async move { socket.send_to(&datagram, peer).await });
    }
}
