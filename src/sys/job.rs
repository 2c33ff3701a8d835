//! [`Job`]: a call for another thread or fiber.

use std::fmt;

/// A function to be called once, on another thread or fiber.
pub(crate) struct Job(pub(super) Box<dyn FnOnce() + Send>);

impl Job {
    #[cfg(feature = "fibers")]
    pub(crate) fn new(call: impl FnOnce() + Send + 'static) -> Job {
        Job(Box::new(call))
    }

    pub(crate) fn run(self) {
        (self.0)();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}
