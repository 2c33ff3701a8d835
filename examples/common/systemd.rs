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
    with_watchdog(builder.observer(Notify), None::<(_, fn())>)
}

/// Has the thread that accepts say that it does, since the manager kills a server that does not; and make
/// another call, at this interval.
pub(super) fn with_watchdog<T: Transport, M: Mixin>(
    builder: Builder<T, M>,
    other: Option<(Duration, impl FnMut() + Send + 'static)>,
) -> Builder<T, M> {
    let mut microseconds = 0;
    let is_watched = sd_notify::watchdog_enabled(false, &mut microseconds);
    // Twice as often as it looks.
    let watched = is_watched.then(|| Duration::from_micros(microseconds) / 2);
    let (interval, mut other) = other.unzip();
    let Some(interval) = watched.into_iter().chain(interval).min() else { return builder };
    builder.service_actions(interval, move || {
        if is_watched {
            notify(NotifyState::Watchdog);
        }
        if let Some(call) = &mut other {
            call();
        }
    })
}

struct Notify;

impl Observer for Notify {
    fn listening(&self, address: &Address) {
        notify(NotifyState::Status(&format!("serving on {address}")));
        notify(NotifyState::Ready);
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
