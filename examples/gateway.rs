//! A TCP relay with limits: connects each client to a server behind it, and carries bytes both ways.
//!
//! ```sh
//! cargo run --example gateway -- --upstream 127.0.0.1:6379 --mixin fibers
//! redis-cli -p 6380
//! ```

mod common;

use std::process::ExitCode;
use std::time::Duration;

use common::{Example, usage_error};
use socketserver::ipnet::IpNet;
use socketserver::{Access, ConnectOptions, Endpoint, handler_fn};

fn main() -> ExitCode {
    Example::new("127.0.0.1:6380", "Connects each client to the server at --upstream.")
        .flag("upstream", "ADDRESS", "the server behind it: HOST:PORT, or unix:/path")
        .flag("allow", "NETWORK", "serves only clients of this network; may be repeated")
        .flag("send-proxy", "VERSION", "tells it who the client is, by a PROXY header: v1 or v2")
        .flag("upstream-tls", "[NAME]", "TLS to it; NAME is that of its certificate, if not HOST")
        .flag("upstream-ca", "FILE", "who may have signed that; whom the system trusts by default")
        .flag("idle", "SECONDS", "closes a pair that is silent for so long; 3600 by default")
        .run(|options| {
            let upstream = options.value("upstream");
            let upstream: Endpoint =
                upstream.ok_or_else(|| usage_error("--upstream is missing".into()))?.parse()?;
            let idle = options.seconds("idle")?.unwrap_or(Duration::from_secs(3600));
            let send_proxy = options.version("send-proxy")?;
            let upstream_tls = options.upstream_tls("upstream-tls", "upstream-ca", &upstream)?;
            let mut access = Access::open();
            for (index, network) in options.values("allow").enumerate() {
                let network: IpNet = network
                    .parse()
                    .map_err(|error| usage_error(format!("--allow {network}: {error}")))?;
                access = if index == 0 { Access::closed() } else { access }.allow(network);
            }

            let gateway = handler_fn(move |client| {
                client.set_idle_timeout(idle);
                let mut how = ConnectOptions::new(Duration::from_secs(5));
                if let Some(version) = send_proxy {
                    how = how.proxy_header(&*client, version);
                }
                if let Some(tls) = &upstream_tls {
                    how = tls.on(how);
                }
                let mut server = client.connect(upstream.clone(), how)?;
                let relayed = client.relay(&mut server)?;
                let (sent, received) = (relayed.sent, relayed.received);
                log::info!("{}: {sent} bytes up, {received} down", client.peer_addr());
                Ok(())
            });
            options.with_access(access).serve(gateway)
        })
}
