//! The mixins, for servers beside a test, and by name for those that are processes of their own.

#[cfg(feature = "fibers")]
use socketserver::Fibers;
use socketserver::extend::{Mixin, Spawnable};
use socketserver::{Forking, Sequential, Threading};

/// All mixins that can run beside a test.
pub(crate) fn spawnable_mixins() -> Vec<Box<dyn Spawnable>> {
    vec![
        Box::new(Sequential),
        Box::new(Threading::new()),
        #[cfg(feature = "fibers")]
        Box::new(Fibers::new().workers(2)),
    ]
}

/// The names of all that [`mixin_named`] knows.
pub(crate) const NAMES: &[&str] = &[
    "sequential",
    "threading",
    "forking",
    #[cfg(feature = "fibers")]
    "fibers",
];

/// The mixin of this name, for a server that is a process of its own.
pub(crate) fn mixin_named(name: &str) -> Box<dyn Mixin> {
    match name {
        "sequential" => Box::new(Sequential),
        "threading" => Box::new(Threading::new()),
        "forking" => Box::new(Forking::new()),
        #[cfg(feature = "fibers")]
        "fibers" => Box::new(Fibers::new().workers(2)),
        _ => panic!("{name}"),
    }
}
