//! [`StreamState`]: the readiness of one stream, and the fibers that wait for it.

use super::slab::Key;
use crate::net::Interest;
use crate::sys::poller::Event;

/// A stream as the scheduler of its worker sees it.
#[derive(Default)]
pub(super) struct StreamState {
    /// Events that no wait has consumed. They are edge-triggered.
    event: Event,
    /// Whether the stream is registered for events.
    pub(super) is_registered: bool,
    /// The fibers that wait to read and to write: one fiber for both, or two.
    reader: Option<Key>,
    writer: Option<Key>,
    /// The fiber that waits for its end.
    watcher: Option<Key>,
}

impl StreamState {
    /// Whether the stream may be ready. Consumes the event, unless it is one that lasts.
    pub(super) fn take_readiness(&mut self, interest: Interest) -> bool {
        let event = &mut self.event;
        match interest {
            // An urgent mark counts as one event more: the read after the first one ends there, and
            // there is no other event for what is behind it.
            Interest::Read => {
                std::mem::take(&mut event.readable)
                    || event.ended
                    || std::mem::take(&mut event.urgent)
            }
            Interest::Write => std::mem::take(&mut event.writable) || event.broken,
            Interest::Closed => event.broken,
        }
    }

    pub(super) fn waiter(&mut self, interest: Interest) -> &mut Option<Key> {
        match interest {
            Interest::Read => &mut self.reader,
            Interest::Write => &mut self.writer,
            Interest::Closed => &mut self.watcher,
        }
    }

    /// Notes an event. Returns the waiters whose wait it ends.
    pub(super) fn on_event(&mut self, event: Event) -> [Option<Key>; 3] {
        self.event.readable |= event.readable;
        self.event.urgent |= event.urgent;
        self.event.writable |= event.writable;
        self.event.ended |= event.ended;
        self.event.broken |= event.broken;
        [Interest::Read, Interest::Write, Interest::Closed].map(|interest| {
            let waits = self.waiter(interest).is_some() && self.take_readiness(interest);
            if waits { self.waiter(interest).take() } else { None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_consumed_but_an_end_lasts() {
        let mut stream = StreamState::default();
        let is_ready = |stream: &mut StreamState| {
            [Interest::Read, Interest::Write].map(|interest| stream.take_readiness(interest))
        };
        let none = Event::default();
        assert_eq!(is_ready(&mut stream), [false, false]);
        stream.on_event(Event { readable: true, ..none });
        stream.on_event(Event { writable: true, ..none });
        assert_eq!(is_ready(&mut stream), [true, true]);
        assert_eq!(is_ready(&mut stream), [false, false]);
        stream.on_event(Event { ended: true, ..none });
        stream.on_event(none);
        assert_eq!([(); 2].map(|()| is_ready(&mut stream)), [[true, false]; 2]);
        stream.on_event(Event { broken: true, ..none });
        stream.on_event(none);
        assert_eq!([(); 2].map(|()| is_ready(&mut stream)), [[true, true]; 2]);
    }

    #[test]
    fn an_event_wakes_those_that_wait_for_it() {
        let mut stream = StreamState::default();
        let (reader, writer) = (Key::of(1), Key::of(2));
        (*stream.waiter(Interest::Read), *stream.waiter(Interest::Write)) =
            (Some(reader), Some(writer));
        let none = Event::default();
        assert_eq!(stream.on_event(Event { writable: true, ..none }), [None, Some(writer), None]);
        assert_eq!(stream.on_event(Event { writable: true, ..none }), [None; 3]);
        assert_eq!(
            stream.on_event(Event { broken: true, ended: true, ..none }),
            [Some(reader), None, None]
        );
    }
}
