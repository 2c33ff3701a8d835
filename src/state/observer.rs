//! [`Observer`]: what a program is told of its server.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::StopReport;
use crate::address::Address;

/// Is told what happens to a server, for a log, for metrics, or for a service manager: given to
/// [`Builder::observer`](crate::Builder::observer).
///
/// The methods are called on the server's own threads, outside of its locks, and do nothing by default.
/// They should be quick. A panic in one is caught and logged. Under [`Forking`](crate::Forking) and
/// [`Prefork`](crate::Prefork) they are called in the parent.
///
/// ```
/// use socketserver::{Address, Observer, StopReport, ThreadingTcpServer, services::Echo};
///
/// struct Announce;
///
/// impl Observer for Announce {
///     fn listening(&self, address: &Address) {
///         println!("serving on {address}");
///     }
///
///     fn stopped(&self, report: &StopReport) {
///         println!("{} were served to their end", report.drained);
///     }
/// }
///
/// let server = ThreadingTcpServer::builder().observer(Announce).bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// The server begins to serve. It has been listening on this address since it was bound.
    fn listening(&self, address: &Address) {
        let _ = address;
    }

    /// The listeners are those of another process, which serves from now on
    /// ([`hand_over`](crate::ServerHandle::hand_over)), and this server is about to stop. Called before
    /// `stopping`, on the thread that hands over, under [`Prefork`](crate::Prefork) in a child. The number
    /// of the process is `None` if it is not visible from here, as one outside of the container.
    fn handed_over(&self, successor: Option<u32>) {
        let _ = successor;
    }

    /// A stop has begun: what was received is answered, and nothing new is accepted.
    fn stopping(&self) {}

    /// The stop is over.
    fn stopped(&self, report: &StopReport) {
        let _ = report;
    }
}

/// The observer of a server, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Observed(Option<Arc<dyn Observer>>);

impl Observed {
    pub(crate) fn by(observer: impl Observer) -> Observed {
        Observed(Some(Arc::new(observer)))
    }

    /// Tells the observer.
    pub(crate) fn tell(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.0
            && catch_unwind(AssertUnwindSafe(|| tell(&**observer))).is_err()
        {
            log::error!("the observer panicked");
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observed" } else { "not observed" })
    }
}
