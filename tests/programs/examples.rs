//! What the tests of the example servers share.

use jiff::civil::DateTime;

pub(crate) const MIXINS: [&str; 5] = ["sequential", "threading", "forking", "prefork", "fibers"];

/// The example servers, with their default addresses.
pub(crate) const SERVERS: [(&str, &str); 10] = [
    ("hello", "127.0.0.1:2525"),
    ("echo", "127.0.0.1:23000"),
    ("chat", "127.0.0.1:2626"),
    ("named_chat", "127.0.0.1:21567"),
    ("greeter", "127.0.0.1:9999"),
    ("timestamp", "127.0.0.1:21568"),
    ("framed", "127.0.0.1:21569"),
    ("ticker", "127.0.0.1:2627"),
    ("store", "127.0.0.1:21570"),
    ("embed", "unix:@socketserver-embed"),
];

/// What follows `[Sat Nov 20 23:46:01 2026] `, if that is the current time.
#[track_caller]
pub(crate) fn without_time(text: &str) -> &str {
    const FORMAT: &str = "%a %b %e %H:%M:%S %Y";
    let (time, rest) = text.strip_prefix('[').unwrap().split_once("] ").unwrap();
    let parsed = DateTime::strptime(FORMAT, time).unwrap();
    // The day has two places.
    assert_eq!(parsed.strftime(FORMAT).to_string(), time);
    assert_eq!(time.len(), "Sat Nov 20 23:46:01 2026".len(), "{time}");
    // Longer than a test takes, and the hour by which a clock may be changed.
    let off = jiff::Zoned::now().datetime().duration_since(parsed);
    assert!(off.abs().as_secs() <= 3700, "{time}");
    rest
}

/// A message of the example `framed`.
pub(crate) fn frame(numbers: &[i32]) -> Vec<u8> {
    let mut frame = (4 * numbers.len() as u32).to_be_bytes().to_vec();
    frame.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    frame
}

/// An answer of the example `framed`.
pub(crate) fn sum_frame(sum: i64) -> Vec<u8> {
    [&8u32.to_be_bytes()[..], &sum.to_be_bytes()].concat()
}
