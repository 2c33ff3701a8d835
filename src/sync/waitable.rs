//! [`Waitable`]: what a wait for the first of several things needs of each.

use std::sync::Arc;

use super::Current;

/// The waiter adds itself, looks once more whether the thing is ready, and parks; it looks again
/// whenever it is unparked (it may have been for nothing), and removes itself at the end.
pub(crate) trait Waitable {
    /// Whether what is waited for can be had now without waiting. Another one may take it.
    fn is_ready(&self) -> bool;

    /// From now on this waiter is unparked whenever the thing may have become ready.
    fn add_waiter(&self, waiter: &Arc<Current>);

    /// As often as it was added.
    fn remove_waiter(&self, waiter: &Arc<Current>);
}
