//! Which public types are `Send`, `Sync`, `UnwindSafe` and `RefUnwindSafe`: a change breaks programs.

use std::panic::{RefUnwindSafe, UnwindSafe};

use socketserver::extend::*;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::{Echo, Hello};
use socketserver::transport::{Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::*;

/// `IS`, for types that do not implement the trait in question.
trait No {
    const IS: bool = false;
}

impl<T: ?Sized> No for T {}

/// Whether a type implements a trait: if it does, the constant of `Yes` hides that of `No`.
macro_rules! implements {
    ($type:ty, $trait:path) => {{
        struct Yes<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code, reason = "not used for a type without the trait")]
        impl<T: ?Sized + $trait> Yes<T> {
            const IS: bool = true;
        }
        <Yes<$type>>::IS
    }};
}

macro_rules! assert_auto_traits {
    ($($($type:ty),+: $traits:expr;)+) => {$($({
        let traits = [
            ("Send", implements!($type, Send)),
            ("Sync", implements!($type, Sync)),
            ("UnwindSafe", implements!($type, UnwindSafe)),
            ("RefUnwindSafe", implements!($type, RefUnwindSafe)),
        ];
        let implemented = traits.into_iter().filter(|(_, is)| *is).map(|(name, _)| name);
        assert_eq!(implemented.collect::<Vec<_>>(), $traits, "{}", stringify!($type));
    })+)+};
}

#[test]
fn the_auto_traits_of_public_types() {
    assert_auto_traits! {
        Access, Address, CloseReason, ConnectionInfo, ConnectionRate, Echo, Endpoint,
        ForkDespiteThreads, Handled, Hello, Interest, Keepalive, LengthPrefixed, MinRate, Overload,
        Peers, Prefix, Scheme, Sequential, Stats, StopReport, Tcp, TransportOptions,
        UnixName, UnixStream: ["Send", "Sync", "UnwindSafe", "RefUnwindSafe"];
        Udp, UnixDatagram: ["Send", "Sync", "UnwindSafe"];
        // These hold an `io::Error`, a trait object of the program's, or a channel or lock that a
        // panic may leave in any state.
        BaseServer, Broadcast, Connection, DatagramRequest, Error, Forking, HandlerError,
        InMemoryConnection, InMemoryDatagram, IncomingStream, Member, Reader<'static>, RunningServer, Sender, ServerHandle,
        Server<Tcp, Threading>, Server<Udp, Sequential>, Threading, Writer<'static>: ["Send", "Sync"];
        Builder<Tcp, Threading>, NextRequest, Request: ["Send"];
    }
    #[cfg(feature = "fibers")]
    assert_auto_traits! {
        Fibers: ["Send", "Sync"];
    }
}
