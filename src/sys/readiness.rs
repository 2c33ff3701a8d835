//! What a poller tells: [`Event`] of a descriptor, [`Wakeups`] of a wait.

/// The readiness of a descriptor.
#[cfg(feature = "fibers")]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    /// There is input.
    pub(crate) readable: bool,
    /// There is an urgent mark in the input, at which a read ends though more is there. Not told where a
    /// wait finds what is behind it.
    pub(crate) urgent: bool,
    /// There is room for output.
    pub(crate) writable: bool,
    /// The input ends with what was received: reads never block again. Not told where reads find that.
    pub(crate) ended: bool,
    /// Both directions are closed: writes never block again.
    pub(crate) broken: bool,
}

/// What an idle acceptor was woken by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wakeups {
    pub(crate) listener: bool,
    pub(crate) shutdown: bool,
    /// The timer has expired since the last wait.
    pub(crate) tick: bool,
}
