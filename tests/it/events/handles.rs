//! Observers that use the server's handle: no lock that it takes is held.

use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::*;
use crate::mixins::all_mixins;
use crate::support::clients::{Client, line_of, read_until_closed};
use crate::support::servers::{answers, serve_with};
use crate::support::{TIMEOUT, wait_until};

/// Calls all that a handle has at each event, and the stop at the end.
#[derive(Clone)]
struct Busy {
    handle: Arc<OnceLock<ServerHandle>>,
    told: Arc<Mutex<Vec<&'static str>>>,
    limit: usize,
}

impl Busy {
    fn note(&self, event: &'static str, id: Option<ConnectionId>) {
        if let Some(handle) = self.handle.get() {
            handle.connections();
            handle.stats();
            handle.listeners();
            handle.suspend();
            handle.resume();
            handle.set_max_connections(self.limit);
            handle.set_max_connections_per_peer(None);
            handle.set_access(Access::open());
            for listener in handle.listen("127.0.0.1:0").unwrap_or_default() {
                handle.close_listener(listener.id);
            }
            if let (Some(id), "closed" | "refused") = (id, event) {
                handle.disconnect(id);
            }
        }
        self.told.lock().push(event);
    }
}

impl Observer for Busy {
    fn listening(&self, _address: &Address) {
        self.note("listening", None);
    }

    fn accepted(&self, accepted: &Accepted<'_>) {
        let handle = self.handle.get().unwrap();
        let listed = handle.connections();
        assert!(listed.iter().any(|info| info.id == accepted.id), "it is listed");
        self.note("accepted", Some(accepted.id));
    }

    fn refused(&self, refused: &Refused<'_>) {
        self.note("refused", refused.id);
    }

    fn handshaken(&self, handshaken: &Handshaken<'_>) {
        self.note("handshaken", Some(handshaken.id));
    }

    fn closed(&self, closed: &Closed<'_>) {
        let handle = self.handle.get().unwrap();
        let listed = handle.connections();
        assert!(listed.iter().all(|info| info.id != closed.id), "it is listed no more");
        self.note("closed", Some(closed.id));
    }

    fn upstream(&self, upstream: &Upstream<'_>) {
        self.note("upstream", upstream.request);
    }

    fn pressure(&self, _pressure: &Pressure<'_>) {
        self.note("pressure", None);
    }

    fn folded(&self, _folded: &Folded) {
        self.note("folded", None);
    }

    fn stopping(&self) {
        self.note("stopping", None);
    }

    fn stopped(&self, _report: &StopReport) {
        self.note("stopped", None);
    }
}

/// A handler that connects to where nothing listens, and answers.
fn handler() -> impl StreamRequestHandler {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    answers(move |line, client| {
        assert!(client.connect(&*nowhere, TIMEOUT).is_err());
        Ok(writeln!(client, "{line}")?)
    })
}

fn serve_busy(
    mixin: Box<dyn extend::Spawnable>,
    set: impl FnOnce(
        Builder<transport::Tcp, Box<dyn extend::Spawnable>>,
    ) -> Builder<transport::Tcp, Box<dyn extend::Spawnable>>,
    limit: usize,
) -> (RunningServer, Busy) {
    let busy = Busy { handle: Arc::default(), told: Arc::default(), limit };
    let proxies = Access::closed().allow(IpAddr::from([127, 0, 0, 1]));
    let builder = TcpServer::builder().mixin(mixin).proxy_protocol(ProxyProtocol::from(proxies));
    let server = set(builder).observer(busy.clone());
    let server = serve_with(server, handler());
    busy.handle.set(server.handle()).ok().unwrap();
    (server, busy)
}

#[test]
fn an_event_may_call_the_handle() {
    for (name, mixin) in all_mixins() {
        let (server, busy) = serve_busy(mixin, |builder| builder, 1000);
        let client = Client::of(&server);
        client.send("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nhello\n");
        assert_eq!(line_of(&mut &client.file()), "hello", "{name}");
        drop(client);
        let bad = Client::of(&server);
        bad.send("no header\n");
        read_until_closed(&mut &bad.file());
        wait_until("both are closed", || {
            busy.told.lock().iter().filter(|told| **told == "closed").count() == 2
        });
        assert!(server.stop(TIMEOUT).is_clean(), "{name}");
        let mut told = busy.told.lock().clone();
        told.sort_unstable();
        told.dedup();
        let expected = ["accepted", "closed", "handshaken", "refused", "stopped", "stopping"];
        let told: Vec<_> =
            told.into_iter().filter(|told| !["listening", "upstream"].contains(told)).collect();
        assert_eq!(told, expected, "{name}");
    }
}

#[test]
fn an_event_at_a_limit_may_call_the_handle() {
    for (name, mixin) in all_mixins().into_iter().skip(1) {
        let set = |builder: Builder<_, _>| {
            builder.max_connections(1).overload(Overload::Refuse("full\n".into()))
        };
        let (server, busy) = serve_busy(mixin, set, 1);
        let first = Client::of(&server);
        wait_until("the first is accepted", || busy.told.lock().contains(&"accepted"));
        let second = Client::of(&server);
        read_until_closed(&mut &second.file());
        wait_until("the second is refused", || busy.told.lock().contains(&"refused"));
        assert!(busy.told.lock().contains(&"pressure"), "{name}");
        drop(first);
        assert!(server.stop(TIMEOUT).is_clean(), "{name}");
    }
}

/// Shuts the server down at the first event of this name.
struct ShutsDown {
    at: &'static str,
    handle: Arc<OnceLock<ServerHandle>>,
}

impl ShutsDown {
    fn at(&self, event: &str) {
        if event == self.at {
            self.handle.wait().shutdown();
        }
    }
}

impl Observer for ShutsDown {
    fn listening(&self, _address: &Address) {
        self.at("listening");
    }

    fn accepted(&self, accepted: &Accepted<'_>) {
        self.at("accepted");
        if self.at == "disconnect" {
            assert!(self.handle.wait().disconnect(accepted.id));
            self.handle.wait().shutdown();
        }
    }

    fn closed(&self, _closed: &Closed<'_>) {
        self.at("closed");
    }

    fn stopping(&self) {
        self.at("stopping");
    }

    fn stopped(&self, _report: &StopReport) {
        self.at("stopped");
    }
}

#[test]
fn an_event_may_shut_the_server_down_or_disconnect_its_client() {
    for at in ["listening", "accepted", "disconnect", "closed", "stopping", "stopped"] {
        for (name, mixin) in all_mixins() {
            let handle = Arc::<OnceLock<ServerHandle>>::default();
            let observer = ShutsDown { at, handle: handle.clone() };
            let builder = TcpServer::builder().mixin(mixin).observer(observer);
            let server = builder.bind("127.0.0.1:0", services::Echo).unwrap();
            handle.set(server.handle()).ok().unwrap();
            let address = server.local_addr().clone();
            let running = server.spawn().unwrap();
            if ["accepted", "disconnect", "closed"].contains(&at) {
                let client = Client::at(&address);
                client.shutdown(std::net::Shutdown::Write);
                read_until_closed(&mut &client.file());
            }
            if at == "stopping" || at == "stopped" {
                assert!(running.stop(TIMEOUT).is_clean(), "{at} {name}");
                continue;
            }
            wait_until("the server stops", || handle.wait().is_stopping());
            assert!(running.stop(Duration::from_secs(10)).is_clean(), "{at} {name}");
        }
    }
}
