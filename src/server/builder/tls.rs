//! The settings of a [`Builder`] that concern TLS.

use std::time::Duration;

use super::{Also, Builder, not_zero};
use crate::address::Endpoint;
use crate::error::Error;
use crate::handler::StreamRequestHandler;
use crate::mixin::Mixin;
use crate::tls::TlsConfig;
use crate::transport::Transport;

impl<T: Transport<Handler = dyn StreamRequestHandler>, M: Mixin> Builder<T, M> {
    /// TLS on all connections but those of [`also_plain`](Builder::also_plain); none by default. Handlers
    /// are the same: [`Connection::tls`](crate::Connection::tls) says what was agreed on.
    ///
    /// The handshake is a part of the request: a client that is slow has only its own thread, process or
    /// fiber wait, for the [`handshake_timeout`](Builder::handshake_timeout) at most. If it fails, the
    /// request ends with [`CloseReason::HandshakeFailed`](crate::CloseReason::HandshakeFailed), and no
    /// method of the handler is called; `verify_request` is called after it. Nothing is ever sent
    /// unencrypted, not even the message of [`Overload::Refuse`](crate::Overload::Refuse): a client that is refused is closed without.
    ///
    /// A client that closes without saying so (`close_notify`), or is cut off, ends its input by an error,
    /// [`Error::TlsTruncated`](crate::Error::TlsTruncated), which is a [disconnect](crate::Error::is_disconnect).
    ///
    /// ```no_run
    /// use socketserver::{FiberUnixStreamServer, TlsConfig, services::Hello};
    ///
    /// let tls = TlsConfig::from_pem("chain.pem", "key.pem")?;
    /// FiberUnixStreamServer::builder().tls(tls).bind("/run/hello.sock", Hello)?.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn tls(mut self, config: impl Into<TlsConfig>) -> Self {
        self.tls = Some(config.into());
        self
    }

    /// Listens on this address too, without TLS: for clients of the same machine, for instance. All else
    /// is as for [`also`](Builder::also), and the handler is the same:
    /// [`ListenerInfo::is_tls`](crate::ListenerInfo::is_tls) of
    /// [`Connection::listener`](crate::Connection::listener) says by which a client has come.
    ///
    /// ```no_run
    /// use socketserver::{ThreadingTcpServer, TlsConfig, services::Echo};
    ///
    /// let tls = TlsConfig::from_pem("chain.pem", "key.pem")?;
    /// let builder = ThreadingTcpServer::builder().tls(tls).also_plain("unix:/run/echo.sock");
    /// builder.bind("[::]:7443", Echo)?.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn also_plain<A>(mut self, address: A) -> Self
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        let endpoint = address.try_into().map_err(Into::into);
        self.also.push(Also::Endpoint { endpoint, is_plain: true });
        self
    }

    /// How long the TLS handshake of a client may take, from the beginning of its request; 10 s by default.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = not_zero(timeout);
        self
    }
}
