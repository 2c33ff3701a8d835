//! x
use std::io::*;
use std::time::Duration;
use socketserver::*;
use socketserver::services::*;
#[test]
fn t() {
    let s = ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let a = s.local_addr().socket_addr().unwrap();
    let mut c = std::net::TcpStream::connect(a).unwrap();
    c.write_all(b"hi\n").unwrap();
    let mut b = [0;3];
    c.read_exact(&mut b).unwrap();
    assert_eq!(&b, b"hi\n");
    println!("{:?}", s.stats());
    let r = s.stop(Duration::from_secs(5));
    println!("{r:?}");
    assert_eq!(r.drained, 1);
    let s = TcpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let a = s.local_addr().socket_addr().unwrap();
    let mut c = std::net::TcpStream::connect(a).unwrap();
    c.write_all(b"hi\n").unwrap();
    c.read_exact(&mut b).unwrap();
    let r = s.stop(Duration::from_secs(5));
    assert_eq!(r.drained, 1);
    let s = ThreadingUdpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let u = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    u.send_to(b"abc", s.local_addr().socket_addr().unwrap()).unwrap();
    let (n, _) = u.recv_from(&mut b).unwrap();
    assert_eq!(&b[..n], b"abc");
    assert!(s.stop(Duration::from_secs(5)).is_clean());
}
