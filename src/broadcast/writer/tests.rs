//! The flusher round by round, with members whose sockets take so much and no more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;

use super::*;
use crate::address::{Address, UnixName};
use crate::broadcast::Broadcast;
use crate::net::Stream;
use crate::sys::waker::Waker;

/// A socket with room for so many bytes, and what it was sent; and how often it acknowledged.
#[derive(Default)]
struct Socket(Mutex<(usize, Vec<u8>)>, AtomicUsize);

struct Member {
    id: u64,
    socket: Arc<Socket>,
    stream: Arc<SharedStream>,
}

impl Stream for Arc<Socket> {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let (room, sent) = &mut *self.0.lock();
        let before = sent.len();
        for piece in pieces {
            let length = piece.len().min(*room);
            sent.extend_from_slice(&piece[..length]);
            *room -= length;
        }
        if sent.len() == before {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(sent.len() - before)
        }
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(pieces)
    }

    fn read(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn try_read(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        Ok(())
    }

    fn set_read_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Unix(UnixName::Unnamed))
    }

    fn acknowledge(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }

    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

impl Member {
    fn join(writer: &Writer, id: u64, room: usize) -> Member {
        let socket = Arc::new(Socket(Mutex::new((room, Vec::new())), AtomicUsize::new(0)));
        let stream = SharedStream::new(Box::new(socket.clone()), Address::Unix(UnixName::Unnamed));
        let member = Member { id, socket, stream: Arc::new(stream) };
        let mut mailbox = writer.shared.mailbox.lock();
        mailbox.members += 1;
        let event = Event::Join(id, member.stream.clone(), mailbox.end);
        writer.shared.push_event(&mut mailbox, event);
        member
    }

    fn leave(&self, writer: &Writer) {
        let mut mailbox = writer.shared.mailbox.lock();
        let event = Event::Leave(self.id, mailbox.end);
        writer.shared.push_event(&mut mailbox, event);
    }

    fn gets_room(&self, writer: &mut Writer, room: usize) {
        self.socket.0.lock().0 = room;
        if let Some(subscriber) = writer.subscribers.get_mut(&self.id) {
            subscriber.blocked = false;
        }
    }

    fn has(&self) -> String {
        String::from_utf8(self.socket.0.lock().1.clone()).unwrap()
    }
}

fn writer(capacity: usize) -> Writer {
    Writer::new(Broadcast::with_capacity(capacity).inner.shared.clone())
}

/// What `run` does with what was batch.
fn round(writer: &mut Writer) -> u64 {
    let batch = writer.shared.mailbox.lock().take();
    writer.log.extend(batch.chunks);
    for event in batch.events {
        writer.apply(event);
    }
    writer.flush_all();
    writer.drop_slow()
}

#[test]
fn a_message_that_was_cut_goes_on_where_it_was_cut_before_anything_else() {
    let mut writer = writer(1000);
    let member = Member::join(&writer, 1, 0);
    for message in ["one.", "two.", "three."] {
        writer.shared.send(message.as_bytes(), None);
    }
    let whole = "one.two.three.";
    for length in 1..whole.len() {
        member.gets_room(&mut writer, 1);
        round(&mut writer);
        assert_eq!(member.has(), whole[..length]);
    }
    // What its handler writes meanwhile stays out of the middle of a message.
    member.gets_room(&mut writer, 100);
    member.stream.write_all([b"handler's.", b""], |_| crate::net::IoTimeout::Socket(None)).unwrap();
    writer.shared.send(b"four.", None);
    round(&mut writer);
    assert_eq!(member.has(), "one.two.three.handler's.four.");
}

#[test]
fn a_member_gets_all_but_its_own_however_its_socket_takes_it() {
    for room in 1..30 {
        let mut writer = writer(1000);
        let (ada, bob) = (Member::join(&writer, 1, 0), Member::join(&writer, 2, 1000));
        for (message, from) in [("a.", 1), ("bb.", 2), ("cc.", 2), ("d.", 1), ("e.", 1), ("f.", 2)]
        {
            writer.shared.send(message.as_bytes(), Some(from));
        }
        for _ in 0.."bb.cc.f.".len() {
            ada.gets_room(&mut writer, room);
            round(&mut writer);
        }
        assert_eq!((ada.has(), bob.has()), ("bb.cc.f.".to_owned(), "a.d.e.".to_owned()), "{room}");
        assert_eq!(writer.log.start(), writer.log.end(), "all have got all");
    }
}

#[test]
fn who_has_spoken_and_gets_nothing_back_is_told_that_it_was_received() {
    let mut writer = writer(1000);
    let (ada, bob) = (Member::join(&writer, 1, 1000), Member::join(&writer, 2, 1000));
    let acknowledged = || [&ada, &bob].map(|member| member.socket.1.load(Ordering::Relaxed));
    writer.shared.send(b"one.", Some(1));
    writer.shared.send(b"two.", Some(1));
    round(&mut writer);
    assert_eq!(acknowledged(), [1, 0]);
    for (message, from) in [("one.", Some(1)), ("two.", Some(2)), ("three.", Some(1))] {
        writer.shared.send(message.as_bytes(), from);
    }
    round(&mut writer);
    assert_eq!(acknowledged(), [1, 0], "what they were sent says it");
    writer.shared.send(b"all.", None);
    round(&mut writer);
    round(&mut writer);
    assert_eq!(acknowledged(), [1, 0]);
    assert_eq!(ada.has(), "two.all.");
}

#[test]
fn whoever_leaves_gets_what_was_sent_before_and_nothing_sent_after() {
    let mut writer = writer(1000);
    let (ada, bob) = (Member::join(&writer, 1, 1000), Member::join(&writer, 2, 1000));
    writer.shared.send(b"before.", None);
    ada.leave(&writer);
    writer.shared.send(b"after.", None);
    round(&mut writer);
    assert_eq!((ada.has(), bob.has()), ("before.".to_owned(), "before.after.".to_owned()));
}

#[test]
fn whoever_falls_behind_the_capacity_is_let_go_between_two_messages() {
    let mut writer = writer(10);
    let (ada, bob) = (Member::join(&writer, 1, 2), Member::join(&writer, 2, 1000));
    writer.shared.send(b"four", None);
    writer.shared.send(b"fives", None);
    assert_eq!(round(&mut writer), 0);
    writer.shared.send(b"six...", None);
    assert_eq!(round(&mut writer), 1);
    assert_eq!((ada.has(), bob.has()), ("fo".to_owned(), "fourfivessix...".to_owned()));
    assert_eq!(ada.stream.close_reason(), Some(CloseReason::Limit));
}

#[test]
fn a_blocked_member_whose_stream_has_no_descriptor_is_tried_again_in_a_moment() {
    let mut writer = writer(1000);
    assert!(writer.shared.waker.set(Waker::new().unwrap()).is_ok());
    let member = Member::join(&writer, 1, 2);
    writer.shared.send(b"four", None);
    round(&mut writer);
    assert_eq!(member.has(), "fo");
    // Nobody is told that there is room again.
    member.socket.0.lock().0 = 100;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let begin = Instant::now();
        writer.sleep(None);
        let _ = sender.send((begin.elapsed(), writer));
    });
    let awake = receiver.recv_timeout(Duration::from_secs(30));
    let (slept, mut writer) = awake.expect("it is never tried again");
    assert!(slept >= Duration::from_millis(10), "it is tried again without a pause: {slept:?}");
    round(&mut writer);
    assert_eq!(member.has(), "four");
}

#[test]
fn senders_wait_while_more_than_the_capacity_is_posted() {
    let writer = writer(100);
    let _member = Member::join(&writer, 1, 0);
    let shared = writer.shared.clone();
    let sender = thread::spawn(move || (0..10_000).for_each(|_| shared.send(&[b'x'; 10], None)));
    let mut taken = 0;
    let give_up = Instant::now() + Duration::from_secs(30);
    while taken < 100_000 {
        assert!(Instant::now() < give_up, "the sender does not go on: {taken}");
        let mut mailbox = writer.shared.mailbox.lock();
        let start = mailbox.batch.chunks.first().map_or(mailbox.end, |first| first.start());
        let batch = mailbox.end - start;
        assert!(batch <= 110, "{batch} bytes are waiting");
        taken += batch;
        drop(mailbox.take());
        drop(mailbox);
        writer.shared.progress.notify_all();
        thread::yield_now();
    }
    sender.join().unwrap();
}
