//! What systemd is told: [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html).

use std::time::Duration;

use sd_notify::NotifyState;
use socketserver::extend::{Mixin, Transport};
use socketserver::{Address, Builder, Observer, StopReport};

/// Has the server say when it is ready and when it stops, and while it accepts, to a service manager
/// that asks for it.
pub(super) fn notified<T: Transport, M: Mixin>(builder: Builder<T, M>) -> Builder<T, M> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return builder;
    }
    let builder = builder.observer(Notify);
    let mut microseconds = 0;
    if !sd_notify::watchdog_enabled(false, &mut microseconds) {
        return builder;
    }
    // The manager kills a server that does not accept. Twice as often as it looks.
    let interval = Duration::from_micros(microseconds) / 2;
    builder.service_actions(interval, || notify(NotifyState::Watchdog))
}

struct Notify;

impl Observer for Notify {
    fn listening(&self, address: &Address) {
        notify(NotifyState::Status(&format!("serving on {address}")));
        notify(NotifyState::Ready);
    }

    fn handed_over(&self, successor: Option<u32>) {
        // The process that the manager is to watch from now on.
        successor.into_iter().for_each(|pid| notify(NotifyState::MainPid(pid)));
    }

    fn stopping(&self) {
        notify(NotifyState::Stopping);
    }

    fn stopped(&self, report: &StopReport) {
        let (drained, forced) = (report.drained, report.forced);
        notify(NotifyState::Status(&format!("stopped: drained {drained}, forced {forced}")));
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        log::warn!("cannot notify the service manager: {error}");
    }
}
