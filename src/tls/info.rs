//! [`TlsInfo`]: what a handshake has agreed on.

use std::fmt;

use rustls::{Connection, HandshakeKind, ProtocolVersion};

/// What the TLS of a connection has agreed on with the peer: [`Connection::tls`](crate::Connection::tls).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version of the protocol: `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite, by its name in the
    /// [registry](https://www.iana.org/assignments/tls-parameters/tls-parameters.xhtml):
    /// `TLS_AES_256_GCM_SHA384`, for instance.
    pub cipher_suite: String,
    /// The name that the client has asked for (SNI), in lower case; `None` if it has not, and for an
    /// upstream.
    pub server_name: Option<String>,
    /// The protocol that was chosen (ALPN), if any.
    pub alpn: Option<Vec<u8>>,
    /// The peer's certificate, and those that connect it with a root, in DER. They are
    /// valid, and their root is one that the configuration trusts. Empty if the peer has shown none.
    pub peer_certificates: Vec<Vec<u8>>,
    /// Whether the session is an earlier one, resumed.
    pub is_resumed: bool,
}

impl TlsInfo {
    pub(super) fn of(session: &Connection) -> TlsInfo {
        let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
        let suite = suite.and_then(|suite| suite.as_str()).unwrap_or("unknown");
        TlsInfo {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "unknown",
            },
            // The name in the registry has no version.
            cipher_suite: suite.replacen("TLS13_", "TLS_", 1),
            server_name: match session {
                Connection::Server(session) => session.server_name().map(str::to_owned),
                Connection::Client(_) => None,
            },
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            peer_certificates: session
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("version", &self.version)
            .field("cipher_suite", &self.cipher_suite)
            .field("server_name", &self.server_name)
            .field("alpn", &self.alpn.as_deref().map(String::from_utf8_lossy))
            .field("peer_certificates", &self.peer_certificates.len())
            .field("is_resumed", &self.is_resumed)
            .finish()
    }
}
