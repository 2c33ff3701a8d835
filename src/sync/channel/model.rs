//! No message is lost or received twice, and no wake-up is lost, whatever the order of the steps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::primitive::model::{YEAR, check};
use crate::primitive::thread::{self, JoinHandle};
use crate::sync::{Current, Waitable};

/// Nothing waits for longer than it takes.
fn soon() -> Instant {
    Instant::now() + YEAR / 2
}

fn join<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Two senders send two messages each, which two receivers receive until the channel is
/// disconnected. A lost wake-up leaves a thread asleep, which shuttle reports as a deadlock.
fn carries_all<S, R>((sender, receiver): (Sender<u32>, Receiver<u32>), send: S, recv: R)
where
    S: Fn(&Sender<u32>, u32) -> bool + Copy + Send + 'static,
    R: Fn(&Receiver<u32>) -> Result<u32, RecvTimeoutError> + Copy + Send + 'static,
{
    let senders: Vec<_> = [[1, 2], [3, 4]]
        .into_iter()
        .map(|messages| {
            let sender = sender.clone();
            thread::spawn(move || {
                messages.into_iter().filter(|message| send(&sender, *message)).collect::<Vec<_>>()
            })
        })
        .collect();
    let receivers: Vec<_> = (0..2)
        .map(|_| {
            let receiver = receiver.clone();
            thread::spawn(move || {
                let mut messages = Vec::new();
                loop {
                    match recv(&receiver) {
                        Ok(message) => messages.push(message),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return messages,
                    }
                }
            })
        })
        .collect();
    drop((sender, receiver));
    let sent = join(senders).concat();
    let received = join(receivers).concat();
    assert_eq!(sent.len(), received.len());
    assert_eq!(sent.into_iter().collect::<BTreeSet<_>>(), received.into_iter().collect());
}

fn send(sender: &Sender<u32>, message: u32) -> bool {
    sender.send(message).unwrap();
    true
}

fn recv(receiver: &Receiver<u32>) -> Result<u32, RecvTimeoutError> {
    receiver.recv().map_err(RecvTimeoutError::from)
}

#[test]
fn a_rendezvous_channel_loses_nothing() {
    check(|| carries_all(bounded(0), send, recv));
}

#[test]
fn a_bounded_channel_loses_nothing() {
    check(|| carries_all(bounded(1), send, recv));
    check(|| carries_all(bounded(2), send, recv));
}

#[test]
fn an_unbounded_channel_loses_nothing() {
    check(|| carries_all(unbounded(), send, recv));
}

/// What times out was not sent.
#[test]
fn nothing_is_lost_when_senders_time_out() {
    let send = |sender: &Sender<u32>, message| sender.send_deadline(message, soon()).is_ok();
    check(move || carries_all(bounded(0), send, recv));
    check(move || carries_all(bounded(1), send, recv));
}

#[test]
fn nothing_is_lost_when_receivers_time_out() {
    let recv = |receiver: &Receiver<u32>| receiver.recv_deadline(soon());
    check(move || carries_all(bounded(0), send, recv));
    check(move || carries_all(bounded(1), send, recv));
    check(move || carries_all(unbounded(), send, recv));
}

#[test]
fn senders_end_when_the_last_receiver_is_dropped() {
    for channel in [|| bounded(0), || bounded(1)] {
        let run = move || {
            let (sender, receiver) = channel();
            let senders: Vec<_> = (0..2)
                .map(|message| {
                    let sender = sender.clone();
                    thread::spawn(move || while sender.send(message).is_ok() {})
                })
                .collect();
            receiver.recv().unwrap();
            drop(receiver);
            join(senders);
        };
        check(run);
    }
}

/// A receiver that is interrupted has received a message, or leaves it to another.
#[test]
fn nothing_is_lost_to_a_receiver_that_is_interrupted() {
    for channel in [|| bounded(0), || bounded(1)] {
        check(move || {
            let (sender, receiver) = channel();
            let current = Arc::<Current>::default();
            let (other, interrupted) = (receiver.clone(), current.clone());
            let first = thread::spawn(move || interrupted.run(|| other.recv().is_ok()));
            let second = thread::spawn(move || receiver.iter().count());
            let sender =
                thread::spawn(move || (1..=2).for_each(|message| _ = send(&sender, message)));
            current.interrupt();
            sender.join().unwrap();
            let received = usize::from(first.join().unwrap()) + second.join().unwrap();
            assert_eq!(received, 2);
        });
    }
}

/// As a wait for the first of several channels does it.
#[test]
fn a_waiter_is_unparked_when_a_receiver_becomes_ready() {
    for channel in [|| bounded(0), || bounded(1), unbounded] {
        check(move || {
            let channels: [(Sender<u32>, Receiver<u32>); 2] = [channel(), channel()];
            let [first, second] = channels;
            let receivers = [first.1, second.1];
            let senders = [first.0, second.0];
            let sender = thread::spawn(move || {
                send(&senders[0], 1);
                send(&senders[1], 2);
                senders
            });
            let mut received = Vec::new();
            let current = Current::get();
            receivers.iter().for_each(|receiver| receiver.add_waiter(&current));
            let wait = |receivers: &[&Receiver<u32>]| {
                while !receivers.iter().any(|receiver| receiver.is_ready()) {
                    current.park(None).unwrap();
                }
            };
            while received.len() < 2 {
                wait(&[&receivers[0], &receivers[1]]);
                received.extend(receivers.iter().filter_map(|receiver| receiver.try_recv().ok()));
            }
            received.sort_unstable();
            assert_eq!(received, [1, 2]);
            let senders = sender.join().unwrap();
            let sender = thread::spawn(move || drop(senders));
            for receiver in &receivers {
                wait(&[receiver]);
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
            }
            receivers.iter().for_each(|receiver| receiver.remove_waiter(&current));
            sender.join().unwrap();
        });
    }
}
