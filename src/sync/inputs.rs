//! [`Inputs`]: descriptors to wait for together with being unparked.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::sys::poll::{Interest, poll_each};

/// Several sources, some of which have a descriptor that is readable when they are ready.
pub(crate) trait Inputs {
    fn len(&self) -> usize;

    /// `None` for one without a descriptor.
    fn input(&self, index: usize) -> Option<Input<'_>>;

    /// Notes that one is ready: surely, or by an event that may be old.
    fn set_ready(&self, index: usize, is_sure: bool);
}

/// The descriptor of a source.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) kind: InputKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputKind {
    /// A stream, and the [number](crate::extend::Wait::number) by which what runs now knows it.
    Stream(Option<u64>),
    /// The source unparks its waiters too, so that only poll(2) needs the descriptor.
    Signal,
}

/// Blocks in poll(2) until one of the inputs or `others` is readable, at most until `deadline`. Returns
/// which of `others` are; `None` after the deadline.
pub(crate) fn poll_inputs<const N: usize>(
    inputs: &dyn Inputs,
    others: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> io::Result<Option<[bool; N]>> {
    let fd = |index| match inputs.len() {
        count if index < count => inputs.input(index).map(|input| input.fd),
        count => Some(others[index - count]),
    };
    let count = inputs.len() + N;
    // It stands for those that have none.
    let Some(any) = (0..count).find_map(fd) else { return Ok(None) };
    let ready: [Cell<bool>; N] = std::array::from_fn(|_| Cell::new(false));
    let is_timeout = Cell::new(true);
    let on_ready = |index: usize| {
        is_timeout.set(false);
        match inputs.len() {
            len if index >= len => ready[index - len].set(true),
            _ if inputs.input(index).is_some() => inputs.set_ready(index, true),
            _ => {}
        }
    };
    let wanted = |index| (fd(index).unwrap_or(any), Interest::Read);
    poll_each(count, wanted, on_ready, deadline)?;
    Ok((!is_timeout.get()).then(|| ready.map(|ready| ready.get())))
}
