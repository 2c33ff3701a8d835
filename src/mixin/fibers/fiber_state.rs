//! [`FiberState`]: one fiber as the scheduler of its worker sees it.

use std::sync::Arc;
use std::time::Instant;

use super::stream_state::StreamState;
use crate::sync::Current;
use crate::sys::fiber::Fiber;
use crate::sys::prefetch::Span;

pub(super) struct FiberState {
    /// `None` while it runs.
    pub(super) fiber: Option<Fiber>,
    /// The request that it serves.
    pub(super) request: u64,
    /// It runs a part of the request, beside the fiber that serves it.
    pub(super) is_part: bool,
    /// As which part of the request it runs; `None` while it runs, and until it first asks.
    pub(super) current: Option<Arc<Current>>,
    /// Memory besides the fiber's stack to prefetch before the fiber is resumed.
    pub(super) spans: [Span; 3],
    /// The client's stream.
    pub(super) stream: StreamState,
    /// It waits for something; otherwise it is running, ready, or has yielded.
    pub(super) waits: bool,
    /// Of its current or last wait; `None`: no deadline.
    pub(super) deadline: Option<Instant>,
    /// Whether its wait ended at the deadline.
    pub(super) timed_out: bool,
    /// Its entry among the scheduler's timers, of which it has one at most.
    pub(super) timer: Option<Instant>,
}

impl FiberState {
    /// That of a new fiber for this request.
    pub(super) fn new(request: u64, current: Option<Arc<Current>>) -> FiberState {
        FiberState {
            fiber: None,
            request,
            is_part: false,
            current,
            spans: [Span::default(); 3],
            stream: StreamState::default(),
            waits: false,
            deadline: None,
            timed_out: false,
            timer: None,
        }
    }

    /// Prefetches what it needs when it is resumed.
    pub(super) fn prefetch(&self) {
        for span in self.fiber.iter().map(Fiber::top).chain(self.spans) {
            span.prefetch();
        }
    }
}
