//! CRC-32C, the checksum of a header
//! ([RFC 9260, Appendix A](https://www.rfc-editor.org/rfc/rfc9260#appendix-A)).

/// The polynomial, its lowest power first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Bit by bit: a header has 4 KiB at most, and seldom a checksum.
pub(super) fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => (crc >> 1) ^ POLYNOMIAL,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        // RFC 3720, B.4: 32 zeroes, in the byte order of this value.
        assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    }
}
