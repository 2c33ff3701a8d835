//! The demos as processes, and clients for them.

use std::process::Command;

#[allow(dead_code, reason = "only one test program starts a browser")]
pub(crate) mod chromium;
pub(crate) mod lookup;
pub(crate) mod mail;
pub(crate) mod site;
pub(crate) mod web_chat;

/// A command that runs a demo.
pub(crate) fn demo(name: &str) -> Command {
    let mut command = Command::new(match name {
        "http_files" => env!("CARGO_BIN_EXE_http_files"),
        "http_get" => env!("CARGO_BIN_EXE_http_get"),
        "lookup" => env!("CARGO_BIN_EXE_lookup"),
        "mail" => env!("CARGO_BIN_EXE_mail"),
        "read_mail" => env!("CARGO_BIN_EXE_read_mail"),
        "send_mail" => env!("CARGO_BIN_EXE_send_mail"),
        "web_chat" => env!("CARGO_BIN_EXE_web_chat"),
        _ => panic!("no demo is called {name}"),
    });
    command.env_remove("RUST_LOG");
    command
}
