//! Tests of the library in the process of the test program, one behaviour in each module.

mod auto_traits;
mod bad_input;
mod broadcast;
mod close_reasons;
mod closing;
mod connected;
mod datagrams;
mod events;
mod every_server;
mod extremes;
#[cfg(feature = "fibers")]
mod fibers;
mod hand_over;
mod histograms;
mod idle_acceptors;
mod lifecycle;
mod limits;
mod listeners;
mod mixins;
mod passing;
mod proxy_protocol;
mod scope;
mod scripted_stream;
mod select;
mod sender;
mod socket_options;
mod split;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod sync;
mod telnet;
mod tied_buffers;
mod timeouts;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
#[path = "../support/tls.rs"]
mod tls_clients;
mod transports;
mod upstream;
mod urgent_data;
mod within;
