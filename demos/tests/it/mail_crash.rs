//! `mail` is killed a hundred times while several clients send messages. At the end, each message
//! that was acknowledged is stored, complete, and no other text is.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::demos::mail::{Mail, messages};
use crate::support::{TIMEOUT, TempDir};
use fastrand::Rng;
use parking_lot::{Condvar, Mutex};

const KILLS: u64 = 100;
const SENDERS: usize = 4;

/// The longest time before a server is killed.
const MAX_LIFETIME: Duration = Duration::from_millis(60);

#[test]
fn what_was_acknowledged_survives_a_hundred_kills() {
    let seed = std::env::var("MAIL_CRASH_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("MAIL_CRASH_SEED is no number"),
    );
    println!(
        "once more: MAIL_CRASH_SEED={seed} cargo test -p socketserver-demos --test it mail_crash"
    );
    let mut random = Rng::with_seed(seed);
    let folder = TempDir::new();
    let current = CurrentAddress::default();
    let is_over = AtomicBool::new(false);
    let sent: Vec<Sent> = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| {
                let random = random.fork();
                let (current, is_over) = (&current, &is_over);
                scope.spawn(move || Sender { number, random, current }.send_until(is_over))
            })
            .collect();
        for kill in 0..KILLS {
            let mail = Mail::start(folder.path(), &["--mixin", mixin(kill)]);
            current.set(mail.address());
            // A random moment to kill at, so there is no event to wait for.
            thread::sleep(MAX_LIFETIME.mul_f64(random.f64()));
            mail.kill();
        }
        let mail = Mail::start(folder.path(), &[]);
        current.set(mail.address());
        is_over.store(true, Ordering::Relaxed);
        let sent = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
        mail.stop();
        sent
    });

    for user in ["ada", "ben"] {
        let mut copies: HashMap<Vec<u8>, usize> = HashMap::new();
        for message in messages(&folder, user) {
            *copies.entry(message).or_default() += 1;
        }
        for message in sent.iter().filter(|message| message.is_for(user)) {
            let found = copies.remove(&*message.text).unwrap_or(0);
            let most = 1 + message.unanswered;
            let text = message.text.escape_ascii();
            assert!((1..=most).contains(&found), "{user} has, {found} times, {text}");
        }
        let unknown = copies.keys().next().map(|text| text.escape_ascii().to_string());
        assert_eq!(unknown, None, "{user} has what was not sent");
    }
    // The kills must have interrupted some messages.
    let lost: usize = sent.iter().map(|message| message.unanswered).sum();
    println!("{} messages, of which {lost} answers were lost", sent.len());
    assert!(sent.len() >= KILLS as usize && lost > 0, "{} sent, {lost} lost", sent.len());
}

fn mixin(number: u64) -> &'static str {
    if number.is_multiple_of(2) { "threading" } else { "fibers" }
}

/// The address of the current server.
#[derive(Default)]
struct CurrentAddress {
    address: Mutex<String>,
    changed: Condvar,
}

impl CurrentAddress {
    fn set(&self, address: &str) {
        address.clone_into(&mut self.address.lock());
        self.changed.notify_all();
    }

    /// Waits for another address than this.
    fn wait_for_other(&self, address: &str) -> String {
        let mut now = self.address.lock();
        self.changed.wait_while_for(&mut now, |now| now == address, TIMEOUT);
        assert_ne!(*now, address, "no other server was started");
        now.clone()
    }
}

/// A message that was acknowledged.
struct Sent {
    text: Vec<u8>,
    recipients: Vec<&'static str>,
    /// How many times it was sent completely without an answer. Each may have stored a copy.
    unanswered: usize,
}

impl Sent {
    fn is_for(&self, user: &str) -> bool {
        self.recipients.contains(&user)
    }
}

struct Sender<'a> {
    number: usize,
    random: Rng,
    current: &'a CurrentAddress,
}

impl Sender<'_> {
    /// Sends messages, each again until it is acknowledged.
    fn send_until(mut self, is_over: &AtomicBool) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut address = String::new();
        let mut connection = None;
        while !is_over.load(Ordering::Relaxed) {
            let mut message = self.next_message(sent.len());
            while let Err(error) = deliver(&mut connection, &address, &mut message) {
                // Any other error may come from the kill.
                assert_ne!(error.kind(), ErrorKind::InvalidData, "{error}");
                connection = None;
                address = self.current.wait_for_other(&address);
            }
            sent.push(message);
        }
        sent
    }

    fn next_message(&mut self, number: usize) -> Sent {
        let mut text = format!("Message-ID: <{}-{number}@x>\r\n\r\n", self.number).into_bytes();
        // Most are short, and some take more than one write.
        let is_long = self.random.u8(..16) == 0;
        let lines = self.random.usize(..if is_long { 2000 } else { 20 });
        for _ in 0..lines {
            let length = self.random.usize(..80);
            text.extend((0..length).map(|_| self.random.choice(b".xyz ").unwrap()));
            text.extend(b"\r\n");
        }
        let recipients = match self.random.u8(..3) {
            0 => vec!["ada"],
            1 => vec!["ben"],
            _ => vec!["ada", "ben"],
        };
        Sent { text, recipients, unanswered: 0 }
    }
}

/// Sends a message once. `InvalidData` is an unexpected reply, which a kill cannot cause.
fn deliver(
    connection: &mut Option<BufReader<TcpStream>>,
    address: &str,
    message: &mut Sent,
) -> io::Result<()> {
    if connection.is_none() {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let stream = connection.insert(BufReader::new(stream));
        reads(stream, "220")?;
        stream.get_mut().write_all(b"HELO client.test\r\n")?;
        reads(stream, "250")?;
    }
    let Some(stream) = connection else { return Err(ErrorKind::NotConnected.into()) };
    let mut commands = "MAIL FROM:<>\r\n".to_owned();
    for recipient in &message.recipients {
        commands += &format!("RCPT TO:<{recipient}@example.test>\r\n");
    }
    stream.get_mut().write_all((commands + "DATA\r\n").as_bytes())?;
    for _ in 0..=message.recipients.len() {
        reads(stream, "250")?;
    }
    reads(stream, "354")?;
    let lines = message.text.split_inclusive(|byte| *byte == b'\n');
    let mut stuffed: Vec<u8> = lines
        .flat_map(|line| [if line.starts_with(b".") { &b"."[..] } else { b"" }, line].concat())
        .collect();
    stuffed.extend(b".\r\n");
    stream.get_mut().write_all(&stuffed)?;
    message.unanswered += 1;
    reads(stream, "250")?;
    message.unanswered -= 1;
    Ok(())
}

fn reads(stream: &mut BufReader<TcpStream>, code: &str) -> io::Result<()> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    match line.ends_with("\r\n") {
        true if line.starts_with(code) => Ok(()),
        true => Err(io::Error::new(ErrorKind::InvalidData, format!("{line:?}, not {code}"))),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}
