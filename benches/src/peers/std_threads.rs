//! Servers on the standard library, with a thread for each connection.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{GREETING, HELLO};
use crate::cases::Service;

pub(super) fn serve(service: Service, address: &str) -> io::Result<()> {
    match service {
        Service::Hello | Service::ForkingHello => serve_each(address, hello),
        Service::Echo => serve_each(address, echo),
        Service::Chat => {
            let room = Arc::new(Room::default());
            serve_each(address, move |stream| chat(stream, &room))
        }
        Service::UdpEcho => echo_datagrams(address),
        Service::ThreadingUdpEcho => echo_datagrams_on_threads(address),
    }
}

fn serve_each<F>(address: &str, handler: F) -> io::Result<()>
where
    F: Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
{
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, handler) = (stream?, handler.clone());
        // An error is a client that disconnected.
        thread::spawn(move || _ = handler(stream));
    }
    Ok(())
}

fn hello(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(HELLO)
}

fn echo(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(&stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        (&stream).write_all(&line)?;
        line.clear();
    }
    Ok(())
}

/// The connections of all members. The sender's thread writes to them.
#[derive(Default)]
struct Room(Mutex<HashMap<SocketAddr, Arc<TcpStream>>>);

impl Room {
    fn send_to_others(&self, from: SocketAddr, line: &[u8]) {
        for (address, stream) in self.0.lock().unwrap().iter() {
            if *address != from {
                // The thread of a closed connection removes it.
                let _ = (&**stream).write_all(line);
            }
        }
    }
}

fn chat(stream: TcpStream, room: &Room) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let name = stream.peer_addr()?;
    let stream = Arc::new(stream);
    (&*stream).write_all(GREETING.as_bytes())?;
    room.0.lock().unwrap().insert(name, stream.clone());
    room.send_to_others(name, format!("Client joined {name}\r\n").as_bytes());
    let outcome = forward_lines(&stream, name, room);
    room.0.lock().unwrap().remove(&name);
    room.send_to_others(name, format!("Client left {name}\r\n").as_bytes());
    outcome
}

fn forward_lines(stream: &TcpStream, name: SocketAddr, room: &Room) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        room.send_to_others(name, format!("[{name}] {}\r\n", line?).as_bytes());
    }
    Ok(())
}

fn echo_datagrams(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    println!("listening on {}", socket.local_addr()?);
    let mut buffer = [0; 65_536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], peer)?;
    }
}

fn echo_datagrams_on_threads(address: &str) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::bind(address)?);
    println!("listening on {}", socket.local_addr()?);
    let mut buffer = [0; 65_536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        let (socket, datagram) = (socket.clone(), buffer[..length].to_vec());
        thread::spawn(move || socket.send_to(&datagram, peer));
    }
}
