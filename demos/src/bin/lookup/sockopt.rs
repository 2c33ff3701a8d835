//! Two options of a TCP socket: the size of its send buffer, and whether it may bind to an address
//! with connections in TIME_WAIT.

use socket2::{Domain, Socket, Type};

use crate::answer::Answer;

pub(crate) fn sockopt() -> Answer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let send_buffer = socket.send_buffer_size()?;
    let before = socket.reuse_address()?;
    socket.set_reuse_address(true)?;
    let after = socket.reuse_address()?;
    Ok(vec![
        format!("SO_SNDBUF {send_buffer}"),
        format!("SO_REUSEADDR {}", u8::from(before)),
        format!("SO_REUSEADDR {}", u8::from(after)),
    ])
}
