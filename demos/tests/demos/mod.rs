//! The demos as processes, and clients for them.

use std::process::Command;

pub(crate) mod lookup;
pub(crate) mod mail;
pub(crate) mod site;

/// A command that runs a demo.
pub(crate) fn demo(name: &str) -> Command {
    let mut command = Command::new(match name {
        "http_files" => env!("CARGO_BIN_EXE_http_files"),
        "http_get" => env!("CARGO_BIN_EXE_http_get"),
        "lookup" => env!("CARGO_BIN_EXE_lookup"),
        "mail" => env!("CARGO_BIN_EXE_mail"),
        "read_mail" => env!("CARGO_BIN_EXE_read_mail"),
        "send_mail" => env!("CARGO_BIN_EXE_send_mail"),
        _ => panic!("no demo is called {name}"),
    });
    command.env_remove("RUST_LOG");
    command
}
