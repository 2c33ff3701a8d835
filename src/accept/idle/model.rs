//! The last waiter to unregister, and the acceptor that relies on it, in every order.

use std::sync::Arc;

use super::*;
use crate::primitive::atomic::AtomicBool;
use crate::primitive::model::check_all;
use crate::primitive::thread;

/// Waiters register and unregister; the acceptor checks some times whether it can rely on them. If
/// its last check says so, it sleeps, and must be woken.
fn the_acceptor_takes_over(waiters: usize, checks: usize) {
    let count = Arc::new(WaiterCount::default());
    let woken = Arc::new(AtomicBool::new(false));
    let waiters: Vec<_> = (0..waiters)
        .map(|_| {
            let (count, woken) = (count.clone(), woken.clone());
            thread::spawn(move || {
                count.register();
                if count.unregister() {
                    woken.store(true, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut relies = false;
    for _ in 0..checks {
        relies = count.has_waiters();
    }
    for waiter in waiters {
        waiter.join().unwrap();
    }
    assert!(!relies || woken.load(Ordering::SeqCst), "no thread waits, and the acceptor sleeps");
}

#[test]
fn the_acceptor_is_woken_when_the_only_waiter_has_left() {
    check_all(|| the_acceptor_takes_over(1, 2));
}

#[test]
fn the_acceptor_is_woken_when_both_waiters_have_left() {
    check_all(|| the_acceptor_takes_over(2, 1));
}
