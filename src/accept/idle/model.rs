//! The last to leave the listener, and the one who relies on them, in every order.

use std::sync::Arc;

use super::*;
use crate::sync::atomic::AtomicBool;
use crate::sync::model::check_all;
use crate::sync::thread;

/// Some come and go; another thread looks whether it can rely on them, and if not, and whenever it
/// is told that nobody is left, sees to the listener itself.
fn nobody_is_left_alone(watchers: usize, looks: usize) {
    let count = Arc::new(WaiterCount::default());
    let waker = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = (0..watchers)
        .map(|_| {
            let (count, waker) = (count.clone(), waker.clone());
            thread::spawn(move || {
                count.register();
                if count.unregister() {
                    waker.store(true, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut relies = false;
    for _ in 0..looks {
        relies = count.has_waiters();
    }
    for watcher in watchers {
        watcher.join().unwrap();
    }
    // All have gone: it sleeps only if it is about to be woken.
    assert!(!relies || waker.load(Ordering::SeqCst), "nobody watches, and nobody says so");
}

#[test]
fn whoever_relies_on_one_is_told_when_it_has_gone() {
    check_all(|| nobody_is_left_alone(1, 2));
}

#[test]
fn whoever_relies_on_two_is_told_when_both_have_gone() {
    check_all(|| nobody_is_left_alone(2, 1));
}
