//! What a header of version 2 says besides addresses: [`Tlv`].

use super::bad;
use crate::error::Result;

/// A piece of information in a header of version 2: a type, a length and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tlv<'a> {
    /// Its type; those of the specification are constants here.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
}

impl Tlv<'_> {
    /// [`ProxyHeader::alpn`](super::ProxyHeader::alpn).
    pub const ALPN: u8 = 0x01;
    /// [`ProxyHeader::authority`](super::ProxyHeader::authority).
    pub const AUTHORITY: u8 = 0x02;
    /// A checksum of the header, which is checked.
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
    /// [`ProxyHeader::unique_id`](super::ProxyHeader::unique_id).
    pub const UNIQUE_ID: u8 = 0x05;
    /// [`ProxyHeader::ssl`](super::ProxyHeader::ssl).
    pub const SSL: u8 = 0x20;
    /// [`ProxyHeader::netns`](super::ProxyHeader::netns).
    pub const NETNS: u8 = 0x30;

    /// Of its type and its length.
    pub(super) const HEAD: usize = 3;

    pub(super) fn length(&self) -> usize {
        Tlv::HEAD + self.value.len()
    }

    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.kind);
        bytes.extend_from_slice(&(self.value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(self.value);
    }

    /// Whether the value is as the specification says; that of the checksum aside.
    pub(super) fn check(&self) -> Result<()> {
        let value = self.value;
        match self.kind {
            Tlv::AUTHORITY if str::from_utf8(value).is_err() => {
                Err(bad("its authority is no text"))
            }
            Tlv::NETNS if !value.is_ascii() => Err(bad("its namespace is no text")),
            Tlv::UNIQUE_ID if value.len() > MAX_UNIQUE_ID => Err(bad("its unique id is too long")),
            Tlv::SSL => check_ssl(value),
            _ => Ok(()),
        }
    }
}

/// The longest value of [`Tlv::UNIQUE_ID`], in bytes.
const MAX_UNIQUE_ID: usize = 128;

/// Several [`Tlv`]s, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Tlvs<'a> {
        Tlvs(bytes)
    }

    /// What is left of them.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// It ends at the first one that is cut off.
impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let ([kind, high, low], rest) = self.0.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
        self.0 = rest;
        Some(Tlv { kind: *kind, value })
    }
}

/// The TLS that a client has used towards the proxy ([`ProxyHeader::ssl`](super::ProxyHeader::ssl)).
#[derive(Clone, Copy, Debug)]
pub struct ProxySsl<'a> {
    client: u8,
    verify: u32,
    tlvs: Tlvs<'a>,
}

/// Bits of the `client` field.
const SSL: u8 = 0x01;
const CERTIFICATE_IN_CONNECTION: u8 = 0x02;
const CERTIFICATE_IN_SESSION: u8 = 0x04;

/// Types of TLVs inside that of SSL.
const VERSION: u8 = 0x21;
const COMMON_NAME: u8 = 0x22;
const CIPHER: u8 = 0x23;
const SIGNATURE_ALGORITHM: u8 = 0x24;
const KEY_ALGORITHM: u8 = 0x25;

fn check_ssl(value: &[u8]) -> Result<()> {
    let mut ssl = ProxySsl::of(value).ok_or(bad("its SSL information is cut off"))?;
    for Tlv { kind, value } in &mut ssl.tlvs {
        let is_text = match kind {
            COMMON_NAME => str::from_utf8(value).is_ok(),
            VERSION | CIPHER | SIGNATURE_ALGORITHM | KEY_ALGORITHM => value.is_ascii(),
            _ => true,
        };
        if !is_text {
            return Err(bad("its SSL information is no text"));
        }
    }
    match ssl.tlvs.rest() {
        [] => Ok(()),
        _ => Err(bad("its SSL information is cut off")),
    }
}

impl<'a> ProxySsl<'a> {
    pub(super) fn of(value: &'a [u8]) -> Option<ProxySsl<'a>> {
        let ([client, verify @ ..], tlvs) = value.split_first_chunk::<5>()?;
        Some(ProxySsl { client: *client, verify: u32::from_be_bytes(*verify), tlvs: Tlvs(tlvs) })
    }

    pub(super) fn is_used(&self) -> bool {
        self.client & SSL != 0
    }

    /// Whether the client has presented a certificate, in this connection or an earlier one of the same
    /// TLS session.
    pub fn has_certificate(&self) -> bool {
        self.client & (CERTIFICATE_IN_CONNECTION | CERTIFICATE_IN_SESSION) != 0
    }

    /// Whether the client has presented a certificate in this connection.
    pub fn has_certificate_in_connection(&self) -> bool {
        self.client & CERTIFICATE_IN_CONNECTION != 0
    }

    /// Whether the client has presented a certificate, and the proxy has verified it.
    pub fn is_verified(&self) -> bool {
        self.has_certificate() && self.verify == 0
    }

    /// The proxy's result of the verification: 0 if there was a certificate and nothing wrong with it,
    /// and from some proxies also if there was none; [`is_verified`](ProxySsl::is_verified) asks for
    /// both. HAProxy's numbers are OpenSSL's `X509_V_ERR_...`.
    pub fn verify(&self) -> u32 {
        self.verify
    }

    /// The version of TLS, such as `TLSv1.3`.
    pub fn version(&self) -> Option<&'a str> {
        self.text(VERSION)
    }

    /// The common name of the client's certificate.
    pub fn common_name(&self) -> Option<&'a str> {
        self.text(COMMON_NAME)
    }

    /// The cipher, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub fn cipher(&self) -> Option<&'a str> {
        self.text(CIPHER)
    }

    /// The algorithm that the proxy's certificate is signed by, such as `SHA256`.
    pub fn signature_algorithm(&self) -> Option<&'a str> {
        self.text(SIGNATURE_ALGORITHM)
    }

    /// The algorithm of the proxy's key, such as `RSA2048`.
    pub fn key_algorithm(&self) -> Option<&'a str> {
        self.text(KEY_ALGORITHM)
    }

    /// All of them, also those of other types.
    pub fn tlvs(&self) -> Tlvs<'a> {
        self.tlvs
    }

    fn text(mut self, kind: u8) -> Option<&'a str> {
        let tlv = self.tlvs.find(|tlv| tlv.kind == kind)?;
        str::from_utf8(tlv.value).ok()
    }
}
