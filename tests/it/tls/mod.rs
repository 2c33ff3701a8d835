//! What TLS promises, under each mixin that runs beside the test, on TCP and Unix sockets. Forking servers,
//! and clients that are not of this package, are in `tests/alone/tls.rs`.

mod certificates;
mod data;
mod handshake;
mod listeners;
mod proxied;
mod upstreams;
