//! The settings of a server's sockets before they listen.

use std::io;

use socket2::Socket;

use super::Builder;
use crate::config::SocketHook;
use crate::mixin::Mixin;
use crate::transport::Transport;

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// The mode of the file of a Unix socket, such as `0o660`: who may connect, or send datagrams, needs
    /// the right to write ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)). By default
    /// what the system makes of the process's umask, mostly `0o755`: only its own user may. systemd's
    /// `SocketMode=`.
    ///
    /// It is set on each Unix socket with a path that the server binds, before it listens. Before that
    /// only the process's own user can reach it, and root, whatever the umask is. TCP and UDP sockets
    /// have no mode. With an abstract name, to which every process may connect, [`bind`](Builder::bind) fails,
    /// as it does for more than `0o777`. A socket that was bound elsewhere keeps its mode.
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    /// use socketserver::{ThreadingUnixStreamServer, services::Echo};
    ///
    /// # let path = std::env::temp_dir().join(format!("socketserver-doc-mode-{}", std::process::id()));
    /// let server = ThreadingUnixStreamServer::builder().socket_mode(0o660).bind(&*path, Echo)?;
    /// assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o660);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn socket_mode(mut self, mode: impl Into<Option<u32>>) -> Self {
        self.settings.transport.socket_mode = mode.into();
        self
    }

    /// The owner of the file of a Unix socket, by number; the process's user (`None`) by default. It
    /// takes `CAP_CHOWN` to set another one. Set on the same sockets as the
    /// [mode](Builder::socket_mode), before they listen. systemd's `SocketUser=`.
    pub fn socket_owner(mut self, uid: impl Into<Option<u32>>) -> Self {
        self.settings.transport.socket_owner = uid.into();
        self
    }

    /// The group of the file of a Unix socket, by number; the process's group, or that of the directory
    /// if it is set-group-ID, (`None`) by default. The process has to be in the group, or have
    /// `CAP_CHOWN`. Its users may connect if the [mode](Builder::socket_mode) lets them, which the umask's
    /// mostly does not. systemd's `SocketGroup=`.
    pub fn socket_group(mut self, gid: impl Into<Option<u32>>) -> Self {
        self.settings.transport.socket_group = gid.into();
        self
    }

    /// Is called with each socket before it is bound, for options that have no setting here; nothing by
    /// default. It is called for every address of a server, also for one that is added while the server
    /// serves: [`Socket::domain`] and [`Socket::type`](Socket::type) say of which kind the socket is. If
    /// it fails, so does binding to that address. A socket that was bound elsewhere is not passed.
    ///
    /// ```
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// // This address may still be missing, until another machine fails.
    /// let server = ThreadingTcpServer::builder()
    ///     .socket(|socket| socket.set_freebind_v4(true))
    ///     .bind("192.0.2.1:0", Echo)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// | option | call | needs |
    /// | --- | --- | --- |
    /// | several sockets at one port (`SO_REUSEPORT`) | [`Builder::reuse_port`] | |
    /// | addresses that the machine does not have yet (`IP_FREEBIND`) | [`Socket::set_freebind_v4`] | |
    /// | addresses of others, for a transparent proxy (`IP_TRANSPARENT`) | [`Socket::set_ip_transparent_v4`] | `CAP_NET_ADMIN` or `CAP_NET_RAW` |
    /// | clients of one interface only (`SO_BINDTODEVICE`) | [`Socket::bind_device`] | `CAP_NET_RAW` before Linux 5.7 |
    /// | the size of the buffers (`SO_RCVBUF`) | [`Socket::set_recv_buffer_size`] | |
    ///
    /// A server overrides what it has settings for, such as keepalive, and its listeners are
    /// non-blocking.
    pub fn socket(
        mut self,
        hook: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.settings.transport.socket_hook = Some(SocketHook::new(hook));
        self
    }
}
