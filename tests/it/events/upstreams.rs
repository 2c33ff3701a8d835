//! The upstreams of requests.

use std::io::Write;
use std::net::TcpListener;

use socketserver::services::Echo;

use super::*;
use crate::mixins::all_mixins;
use crate::support::TIMEOUT;
use crate::support::clients::{Client, ask};
use crate::support::servers::{answers, serve, serve_with};

#[test]
fn an_upstream_is_connected_and_closed_or_fails() {
    for (name, mixin) in all_mixins() {
        let echo = serve(Echo);
        // Nothing listens there any more.
        let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let handler = answers(|line, client| {
            let answer = match client.connect(line, TIMEOUT) {
                Ok(mut upstream) => {
                    upstream.write_all(b"hello\n")?;
                    let mut answer = String::new();
                    upstream.read_line(&mut answer)?;
                    answer
                }
                Err(_) => "failed\n".to_owned(),
            };
            Ok(client.write_all(answer.as_bytes())?)
        });
        let (observer, told) = teller();
        let server = serve_with(TcpServer::builder().mixin(mixin).observer(observer), handler);
        assert!(matches!(next(&told), Told::Listening(_)));
        let client = Client::of(&server);
        let address = echo.local_addr().to_string();
        assert_eq!(ask(&client, &address), "hello");
        assert_eq!(ask(&client, &nowhere.to_string()), "failed", "{name}");
        let (id, _) = next_accepted(&told);
        for (change, text) in [
            ("connected", format!("{address} {address}")),
            ("closed", format!("{address} 6 6")),
            ("failed", format!("{nowhere} true")),
        ] {
            assert_eq!(next(&told), Told::Upstream(Some(id), change, text), "{name}");
        }
        drop(client);
        next_closed(&told, id);
        let outside = server.handle().connect(echo.local_addr(), TIMEOUT).unwrap();
        assert!(matches!(next(&told), Told::Upstream(None, "connected", _)));
        drop(outside);
        assert!(matches!(next(&told), Told::Upstream(None, "closed", _)));
    }
}
