//! CPython's `socketserver`.

use std::process::Command;

use crate::cases::Service;

const SCRIPT: &str = include_str!("cpython.py");

pub(super) fn command(service: Service) -> Command {
    let (server, handler) = match service {
        Service::Hello => ("ThreadingTCPServer", "Hello"),
        Service::ForkingHello => ("ForkingTCPServer", "Hello"),
        Service::Echo => ("ThreadingTCPServer", "Echo"),
        Service::Chat => ("ThreadingTCPServer", "Chat"),
        Service::UdpEcho => ("UDPServer", "EchoDatagram"),
        Service::ThreadingUdpEcho => ("ThreadingUDPServer", "EchoDatagram"),
    };
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT, server, handler]);
    command
}
