//! The writer batch by batch, with members whose sockets have room for a given number of bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;

use super::*;
use crate::address::{Address, UnixName};
use crate::broadcast::Broadcast;
use crate::net::Stream;
use crate::net::outbox::RETRY_INTERVAL;
use crate::sys::waker::Waker;

#[derive(Default)]
struct Socket {
    /// How many more bytes it takes.
    room: Mutex<usize>,
    sent: Mutex<Vec<u8>>,
    acknowledged: AtomicUsize,
}

struct Member {
    id: MemberId,
    socket: Arc<Socket>,
    stream: Arc<SharedStream>,
}

impl Stream for Arc<Socket> {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut room, mut sent) = (self.room.lock(), self.sent.lock());
        let sent_before = sent.len();
        for piece in pieces {
            let length = piece.len().min(*room);
            sent.extend_from_slice(&piece[..length]);
            *room -= length;
        }
        match sent.len() - sent_before {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            length => Ok(length),
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
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

impl Member {
    fn join(writer: &Writer, id: u64, room: usize) -> Member {
        let id = MemberId::from(id);
        let socket = Arc::new(Socket { room: Mutex::new(room), ..Socket::default() });
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

    fn set_room(&self, writer: &mut Writer, room: usize) {
        *self.socket.room.lock() = room;
        if let Some(subscriber) = writer.subscribers.get_mut(&self.id) {
            subscriber.blocked = false;
        }
    }

    fn received(&self) -> String {
        String::from_utf8(self.socket.sent.lock().clone()).unwrap()
    }
}

fn writer(capacity: usize) -> Writer {
    Writer::new(Broadcast::with_capacity(capacity).inner.shared.clone())
}

/// One iteration of `Writer::run`, without the waiting.
fn write_batch(writer: &mut Writer) -> u64 {
    let batch = writer.shared.mailbox.lock().take();
    writer.log.extend(batch.chunks);
    for event in batch.events {
        writer.apply(event);
    }
    writer.flush_all();
    writer.drop_slow()
}

#[test]
fn a_member_with_room_that_poll_has_not_reported_is_not_dropped() {
    let mut writer = writer(10);
    let [reads, does_not] = [1, 2].map(|id| Member::join(&writer, id, 0));
    for message in ["eight.", "more."] {
        writer.shared.send(message.as_bytes(), None);
        let slow = write_batch(&mut writer);
        assert_eq!(slow, u64::from(message == "more."));
        *reads.socket.room.lock() = 100;
    }
    assert_eq!((reads.received(), does_not.received()), ("eight.more.".into(), String::new()));
}

#[test]
fn the_rest_of_a_partly_sent_message_is_sent_before_anything_else() {
    let mut writer = writer(1000);
    let member = Member::join(&writer, 1, 0);
    for message in ["one.", "two.", "three."] {
        writer.shared.send(message.as_bytes(), None);
    }
    let whole = "one.two.three.";
    for length in 1..whole.len() {
        member.set_room(&mut writer, 1);
        write_batch(&mut writer);
        assert_eq!(member.received(), whole[..length]);
    }
    // The handler's output does not split a message.
    member.set_room(&mut writer, 100);
    member
        .stream
        .write_all(
            [b"handler's.", b""],
            &mut crate::net::WriteProgress::new(None, None, Default::default()),
        )
        .unwrap();
    writer.shared.send(b"four.", None);
    write_batch(&mut writer);
    assert_eq!(member.received(), "one.two.three.handler's.four.");
}

#[test]
fn a_member_receives_all_messages_but_its_own_whatever_its_socket_has_room_for() {
    for room in 1..30 {
        let mut writer = writer(1000);
        let (ada, bob) = (Member::join(&writer, 1, 0), Member::join(&writer, 2, 1000));
        for (message, from) in [("a.", 1), ("bb.", 2), ("cc.", 2), ("d.", 1), ("e.", 1), ("f.", 2)]
        {
            writer.shared.send(message.as_bytes(), Some(from.into()));
        }
        for _ in 0.."bb.cc.f.".len() {
            ada.set_room(&mut writer, room);
            write_batch(&mut writer);
        }
        assert_eq!(
            (ada.received(), bob.received()),
            ("bb.cc.f.".to_owned(), "a.d.e.".to_owned()),
            "{room}"
        );
        assert_eq!(writer.log.start(), writer.log.end(), "all members have received all messages");
    }
}

#[test]
fn one_batch_may_need_several_writes() {
    let mut writer = writer(100_000);
    let (ada, bob) = (Member::join(&writer, 1, 10_000), Member::join(&writer, 2, 10_000));
    // Each of Ada's own messages ends a slice.
    for _ in 0..2 * MAX_SLICES + 1 {
        writer.shared.send(b"a.", Some(1.into()));
        writer.shared.send(b"bb.", Some(2.into()));
    }
    write_batch(&mut writer);
    assert_eq!(ada.received(), "bb.".repeat(2 * MAX_SLICES + 1));
    assert_eq!(bob.received(), "a.".repeat(2 * MAX_SLICES + 1));
}

#[test]
fn a_member_that_sends_and_receives_nothing_is_acknowledged_at_once() {
    let mut writer = writer(1000);
    let (ada, bob) = (Member::join(&writer, 1, 1000), Member::join(&writer, 2, 1000));
    let acknowledged =
        || [&ada, &bob].map(|member| member.socket.acknowledged.load(Ordering::Relaxed));
    writer.shared.send(b"one.", Some(1.into()));
    writer.shared.send(b"two.", Some(1.into()));
    write_batch(&mut writer);
    assert_eq!(acknowledged(), [1, 0]);
    for (message, from) in [("one.", 1), ("two.", 2), ("three.", 1)] {
        writer.shared.send(message.as_bytes(), Some(from.into()));
    }
    write_batch(&mut writer);
    assert_eq!(acknowledged(), [1, 0], "the messages carry the acknowledgement");
    writer.shared.send(b"all.", None);
    write_batch(&mut writer);
    write_batch(&mut writer);
    assert_eq!(acknowledged(), [1, 0]);
    assert_eq!(ada.received(), "two.all.");
}

#[test]
fn a_member_that_leaves_receives_the_messages_sent_before_and_none_sent_after() {
    let mut writer = writer(1000);
    let (ada, bob) = (Member::join(&writer, 1, 1000), Member::join(&writer, 2, 1000));
    writer.shared.send(b"before.", None);
    ada.leave(&writer);
    writer.shared.send(b"after.", None);
    write_batch(&mut writer);
    assert_eq!(
        (ada.received(), bob.received()),
        ("before.".to_owned(), "before.after.".to_owned())
    );
}

#[test]
fn dropping_a_member_leaves_without_waiting_for_the_writer() {
    // There is no writer.
    let broadcast = Broadcast::new();
    let stream = SharedStream::new(Box::<Arc<Socket>>::default(), Address::Unix(UnixName::Unnamed));
    let member = broadcast.add_member(&Arc::new(stream));
    assert_eq!(broadcast.members(), 1);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        drop(member);
        sender.send(())
    });
    receiver.recv_timeout(Duration::from_secs(30)).expect("it waits for the writer");
    assert_eq!(broadcast.members(), 0);
}

#[test]
fn a_member_behind_by_more_than_the_capacity_is_disconnected() {
    let mut writer = writer(10);
    let (ada, bob) = (Member::join(&writer, 1, 2), Member::join(&writer, 2, 1000));
    writer.shared.send(b"four", None);
    writer.shared.send(b"fives", None);
    assert_eq!(write_batch(&mut writer), 0);
    writer.shared.send(b"six...", None);
    assert_eq!(write_batch(&mut writer), 1);
    assert_eq!((ada.received(), bob.received()), ("fo".to_owned(), "fourfivessix...".to_owned()));
    assert_eq!(ada.stream.close_reason(), Some(CloseReason::Limit));
}

#[test]
fn a_blocked_stream_without_a_descriptor_is_tried_again_after_the_retry_interval() {
    let mut writer = writer(1000);
    assert!(writer.shared.waker.set(Waker::new().unwrap()).is_ok());
    let member = Member::join(&writer, 1, 2);
    writer.shared.send(b"four", None);
    write_batch(&mut writer);
    assert_eq!(member.received(), "fo");
    // There is no event for this.
    *member.socket.room.lock() = 100;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let started = Instant::now();
        writer.sleep(None);
        let _ = sender.send((started.elapsed(), writer));
    });
    let awake = receiver.recv_timeout(Duration::from_secs(30));
    let (slept, mut writer) = awake.expect("the stream is never tried again");
    assert!(slept >= RETRY_INTERVAL, "the stream is tried again too early: {slept:?}");
    write_batch(&mut writer);
    assert_eq!(member.received(), "four");
}

#[test]
fn senders_wait_while_the_mailbox_is_full() {
    let writer = writer(100);
    let _member = Member::join(&writer, 1, 0);
    let shared = writer.shared.clone();
    let sender = thread::spawn(move || (0..10_000).for_each(|_| shared.send(&[b'x'; 10], None)));
    let mut taken = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    while taken < 100_000 {
        assert!(Instant::now() < deadline, "the sender is stuck: {taken} bytes taken");
        let mut mailbox = writer.shared.mailbox.lock();
        let start = mailbox.batch.chunks.first().map_or(mailbox.end, |first| first.start());
        let queued = mailbox.end - start;
        assert!(queued <= 110, "{queued} bytes are queued");
        taken += queued;
        drop(mailbox.take());
        drop(mailbox);
        writer.shared.progress.notify_all();
        thread::yield_now();
    }
    sender.join().unwrap();
}
