//! A member as the others see it: [`Guest`].

use socketserver::MemberId;
use socketserver::extend::{Kind, Message};
use socketserver::services::chat_line;

use crate::backplane::Publisher;

/// A member whose name the others know. The drop publishes that it has left.
pub(crate) struct Guest<'room> {
    publisher: &'room Publisher,
    id: MemberId,
    name: String,
}

impl<'room> Guest<'room> {
    /// Publishes that it has joined. It does not receive its own lines, if the number is that of a
    /// member of the chat's broadcast.
    pub(crate) fn join(publisher: &'room Publisher, id: MemberId, name: String) -> Guest<'room> {
        let guest = Guest { publisher, id, name };
        let kind = Kind::Join { leave_message: guest.leave_message() };
        guest.publish(format!("Client joined {}", guest.name), kind);
        guest
    }

    pub(crate) fn say(&self, line: &[u8]) {
        self.publish(format!("[{}] {}", self.name, chat_line(line)), Kind::Message);
    }

    fn leave_message(&self) -> String {
        format!("Client left {}", self.name)
    }

    fn publish(&self, line: String, kind: Kind) {
        self.publisher.publish(Message::new(self.id, line, kind));
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.publish(self.leave_message(), Kind::Leave);
    }
}
