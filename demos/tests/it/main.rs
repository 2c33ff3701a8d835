//! The demos as processes, over real sockets. These tests need no other program.

#[path = "../demos/mod.rs"]
mod demos;
#[path = "../../../tests/support/mod.rs"]
mod support;

mod http_command_line;
mod http_conditions;
mod http_downloads;
mod http_files;
mod http_links;
mod http_odd_files;
mod http_refusals;
mod http_refused_bodies;

mod lookup;
mod lookup_files;
mod mail;
mod mail_crash;
mod mail_pop3;
mod mail_smtp;
mod mail_smuggling;

mod web_chat;
mod web_chat_frames;
mod web_chat_many;
