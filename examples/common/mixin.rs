//! The flags that choose the mixin.

use std::str::FromStr;

use socketserver::extend::{Mixin, Spawnable};
use socketserver::{Fibers, Forking, Prefork, Sequential, Threading};

use super::flags::{Flag, Values};

/// Those of an example, which may be one that cannot fork.
pub(super) fn flags(no_forking: bool) -> Vec<Flag<'static>> {
    let mixins = match no_forking {
        false => "sequential, threading (the default), forking, prefork or fibers",
        true => "sequential, threading (the default) or fibers",
    };
    let mut flags = vec![
        Flag("mixin", "MIXIN", mixins),
        Flag("workers", "NUMBER", "threads for fibers; by default one less than processors"),
    ];
    if !no_forking {
        let help = "processes of prefork; by default as many as processors";
        flags.push(Flag("children", "NUMBER", help));
    }
    flags
}

/// The mixin, and its settings.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    name: Name,
    workers: Option<usize>,
    children: Option<usize>,
}

#[derive(Clone, Copy)]
enum Name {
    Sequential,
    Threading,
    Forking,
    Prefork,
    Fibers,
}

impl Choice {
    /// `no_forking`: why the example cannot fork.
    pub(super) fn of(values: &Values, no_forking: Option<&str>) -> Result<Choice, lexopt::Error> {
        let name = values.parsed("mixin", Name::from_str)?.unwrap_or(Name::Threading);
        if let (Name::Forking | Name::Prefork, Some(reason)) = (name, no_forking) {
            let name = values.last("mixin").unwrap_or_default();
            return Err(format!("--mixin {name} cannot work here: {reason}").into());
        }
        let children = if no_forking.is_none() { values.number("children")? } else { None };
        Ok(Choice { name, workers: values.number("workers")?, children })
    }

    pub(super) fn mixin(self) -> Box<dyn Mixin> {
        match self.name {
            Name::Forking => Box::new(Forking::new()),
            Name::Prefork => {
                let prefork = Prefork::new();
                Box::new(match self.children {
                    Some(children) => prefork.children(children),
                    None => prefork,
                })
            }
            _ => self.spawnable(),
        }
    }

    /// Whether the server may have other threads beside it.
    pub(super) fn is_spawnable(self) -> bool {
        !matches!(self.name, Name::Forking | Name::Prefork)
    }

    /// Whether its children accept by themselves.
    pub(super) fn forks_children(self) -> bool {
        matches!(self.name, Name::Prefork)
    }

    pub(super) fn spawnable(self) -> Box<dyn Spawnable> {
        match self.name {
            Name::Sequential => Box::new(Sequential),
            Name::Fibers => {
                let fibers = Fibers::new();
                Box::new(match self.workers {
                    Some(workers) => fibers.workers(workers),
                    None => fibers,
                })
            }
            _ => Box::new(Threading::new()),
        }
    }
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Name, &'static str> {
        match text {
            "sequential" => Ok(Name::Sequential),
            "threading" => Ok(Name::Threading),
            "forking" => Ok(Name::Forking),
            "prefork" => Ok(Name::Prefork),
            "fibers" => Ok(Name::Fibers),
            _ => Err("a mixin is sequential, threading, forking, prefork or fibers"),
        }
    }
}
