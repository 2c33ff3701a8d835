//! Listeners with TLS and without on one server.

use std::io::Write;

use socketserver::*;

use crate::every_server::mixins;
use crate::support::clients::{Client, ask, rest_of};
use crate::support::close_reasons::is_counted;
use crate::support::servers::{answers, serve_with};
use crate::support::{TIMEOUT, abstract_name};
use crate::tls_clients::{self, client_config, config_of, connect_at, server_config};

/// Answers with whether the listener and the connection are over TLS.
fn says_whether_tls() -> impl StreamRequestHandler {
    answers(|_, connection| {
        let (listener, tls) = (connection.listener().is_tls, connection.tls().is_some());
        Ok(writeln!(connection, "{listener} {tls}")?)
    })
}

#[test]
fn a_server_with_tls_listens_without_it_too() {
    for mixin in mixins() {
        let builder = TcpServer::builder().mixin(mixin).tls(server_config());
        let builder = builder.also_plain("127.0.0.1:0").also("127.0.0.1:0");
        let builder = builder.also_plain(format!("unix:{}", abstract_name()));
        let server = serve_with(builder, says_whether_tls());
        let handle = server.handle();
        handle.listen_plain("127.0.0.1:0").unwrap();
        let [added] = &handle.listen("127.0.0.1:0").unwrap()[..] else { panic!("not one") };
        assert!(added.is_tls);
        // A new certificate is for those that have one.
        handle.set_tls(config_of("renewed")).unwrap();
        let listeners = handle.listeners();
        let have_tls: Vec<_> = listeners.iter().map(|listener| listener.is_tls).collect();
        assert_eq!(have_tls, [true, false, true, false, false, true]);
        for listener in &listeners {
            let address = &listener.local_addr;
            if listener.is_tls {
                let mut client = connect_at(address, client_config(None), "localhost");
                assert_eq!(tls_clients::ask(&mut client, "what?"), "true true", "{address}");
                tls_clients::end_output(&mut client);
            } else {
                assert_eq!(ask(&Client::at(address), "what?"), "false false", "{address}");
            }
        }
        // One that is for TLS does not serve without.
        let plain = Client::at(&added.local_addr);
        plain.send("what?\n");
        assert_eq!(rest_of(&plain).first(), Some(&21));
        drop(plain);
        let reasons = [CloseReason::Eof; 6];
        is_counted(&handle, &[&reasons[..], &[CloseReason::HandshakeFailed]].concat());
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

#[test]
fn listeners_of_a_server_without_tls_are_without() {
    let builder = ThreadingTcpServer::builder().also_plain("127.0.0.1:0").also("127.0.0.1:0");
    let server = serve_with(builder, says_whether_tls());
    for listener in server.handle().listeners() {
        assert!(!listener.is_tls);
        assert_eq!(ask(&Client::at(&listener.local_addr), "what?"), "false false");
    }
}

#[test]
fn an_address_that_is_none_is_an_error_of_bind() {
    let builder = ThreadingTcpServer::builder().tls(server_config()).also_plain("nowhere");
    let error = builder.bind("127.0.0.1:0", services::Echo).unwrap_err();
    assert!(matches!(error, Error::Address { .. }), "{error}");
}
