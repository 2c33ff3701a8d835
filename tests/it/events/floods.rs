//! More events than are told one by one.

use std::collections::HashMap;
use std::time::Instant;

use socketserver::services::Echo;

use super::*;
use crate::mixins::all_mixins;
use crate::support::clients::unixgram;
use crate::support::servers::serve_at;
use crate::support::{TIMEOUT, abstract_name};

/// How many events of a kind were told, and how many folded.
fn tally(told: Told, tallies: &mut HashMap<EventKind, (u64, u64)>) {
    let (kind, told, folded) = match told {
        Told::Accepted { .. } => (EventKind::Accepted, 1, 0),
        Told::Closed { .. } => (EventKind::Closed, 1, 0),
        Told::Folded(kind, count) => (kind, 0, count),
        _ => return,
    };
    let tally = tallies.entry(kind).or_default();
    *tally = (tally.0 + told, tally.1 + folded);
}

#[test]
fn of_a_flood_a_thousand_a_second_are_told_and_the_others_counted_also_at_its_end() {
    const REQUESTS: u64 = 6000;
    for (name, mixin) in all_mixins() {
        let (observer, told) = teller();
        let builder = UnixDatagramServer::builder().mixin(mixin).observer(observer);
        let address = format!("unixgram:{}", abstract_name());
        let quiet = datagram_handler_fn(|_: &mut DatagramRequest| Ok(()));
        let server = serve_at(&address, builder, quiet);
        let client = unixgram(server.local_addr());
        let begun = Instant::now();
        (0..REQUESTS).for_each(|_| _ = client.send(b"hello").unwrap());
        let mut tallies = HashMap::new();
        let all = |tallies: &HashMap<EventKind, (u64, u64)>| {
            [EventKind::Accepted, EventKind::Closed].iter().all(|kind| {
                tallies.get(kind).is_some_and(|(told, folded)| told + folded == REQUESTS)
            })
        };
        // Nothing happens any more that could bring the last count along.
        while !all(&tallies) {
            tally(next(&told), &mut tallies);
        }
        let seconds = begun.elapsed().as_secs() + 2;
        for (kind, (told, folded)) in &tallies {
            assert!(*told <= 1000 * seconds, "{name}: {told} of {kind} in {seconds} s");
            assert!(seconds > 5 || *folded > 0, "{name}: {kind}");
        }
        drop(server);
    }
}

#[test]
fn a_stop_tells_the_count_of_a_flood_before_it_is_over() {
    let (observer, told) = teller();
    let address = format!("unixgram:{}", abstract_name());
    let builder = UnixDatagramServer::builder().observer(observer);
    let server = serve_at(&address, builder, Echo);
    let client = unixgram(server.local_addr());
    drop(client);
    let client = unixgram(server.local_addr());
    (0..3000).for_each(|_| _ = client.send(b"hello").unwrap());
    assert!(server.stop(TIMEOUT).is_clean());
    let mut tallies = HashMap::new();
    loop {
        match next(&told) {
            Told::Stopped(_) => break,
            event => tally(event, &mut tallies),
        }
    }
    for kind in [EventKind::Accepted, EventKind::Closed] {
        let (told, folded) = tallies[&kind];
        assert_eq!(told + folded, 3000, "{kind}");
    }
    assert!(told.try_recv().is_err(), "told after the stop");
}
