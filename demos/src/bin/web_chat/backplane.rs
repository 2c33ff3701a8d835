//! One backplane for line clients and browsers: a chat owns its own, so here it is shared.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, OnceLock};

use socketserver::extend::{Backplane, LocalMembers, Message};

/// Publishes to the backplane of a chat. It does nothing before the chat has opened that.
#[derive(Clone)]
pub(crate) struct Publisher(Arc<dyn Fn(Message) + Send + Sync>);

impl Publisher {
    pub(crate) fn publish(&self, message: Message) {
        (self.0)(message);
    }
}

/// A backplane for a chat, which others publish to by the [`Publisher`].
pub(crate) struct Shared<B> {
    /// `None` once it is opened.
    backplane: Option<B>,
    opened: Arc<OnceLock<B>>,
}

impl<B: Backplane> Shared<B> {
    pub(crate) fn new(backplane: B) -> (Shared<B>, Publisher) {
        let opened = Arc::new(OnceLock::new());
        let publisher = Publisher(Arc::new({
            let opened: Arc<OnceLock<B>> = opened.clone();
            move |message| {
                if let Some(backplane) = opened.get() {
                    backplane.publish(message);
                }
            }
        }));
        (Shared { backplane: Some(backplane), opened }, publisher)
    }
}

impl<B: Backplane> Backplane for Shared<B> {
    type Error = B::Error;

    fn open(&mut self, members: LocalMembers) -> Result<(), B::Error> {
        if let Some(mut backplane) = self.backplane.take() {
            backplane.open(members)?;
            let _ = self.opened.set(backplane);
        }
        Ok(())
    }

    fn publish(&self, message: Message) {
        if let Some(backplane) = self.opened.get() {
            backplane.publish(message);
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&self.opened).finish()
    }
}

/// The backplane of a room on this server alone: each line is delivered at once.
#[derive(Debug, Default)]
pub(crate) struct Local(LocalMembers);

impl Backplane for Local {
    type Error = Infallible;

    fn open(&mut self, members: LocalMembers) -> Result<(), Infallible> {
        self.0 = members;
        Ok(())
    }

    fn publish(&self, message: Message) {
        self.0.deliver(&message.line, Some(message.author));
    }
}
