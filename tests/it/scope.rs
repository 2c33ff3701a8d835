//! Parts of a request that run at the same time ([`sync::scope`]).

use std::cell::Cell;
use std::io::{self, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::sync::{Parker, scope};
use socketserver::*;

use crate::mixins::{by_each_mixin, stops_cleanly};
use crate::support::clients::{Client, ask, line_of};
use crate::support::close_reasons::{LONG, SHORT};
use crate::support::servers::{answers, serve};
use crate::support::wait_until;

#[test]
fn parts_run_at_the_same_time_and_borrow() {
    let handler = answers(|line, connection| {
        let (to, fro) = (Parker::new(), Parker::new());
        let (unpark_to, unpark_fro) = (to.unparker().clone(), fro.unparker().clone());
        let mut words = vec![line.to_owned()];
        let count = connection.scope(|scope| {
            // Each waits for the other again and again.
            let other = scope.spawn(move || {
                for _ in 0..100 {
                    unpark_to.unpark();
                    fro.park().unwrap();
                }
                fro
            })?;
            let words = &mut words;
            let part = scope.spawn(move || {
                words.push("again".to_owned());
                for _ in 0..100 {
                    to.park().unwrap();
                    unpark_fro.unpark();
                }
                words.len()
            })?;
            drop(other.join().unwrap());
            let count = part.join().unwrap();
            Ok::<_, Error>(count)
        })?;
        Ok(writeln!(connection, "{} {count}", words.join(" "))?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        for word in ["one", "two"] {
            assert_eq!(ask(&client, word), format!("{word} again 2"), "{mixin}");
        }
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn the_scope_ends_after_its_parts_and_theirs() {
    const PARTS: usize = 100;
    let handler = answers(|line, connection| {
        let ended = AtomicUsize::new(0);
        let result = scope(|scope| {
            for _ in 0..PARTS {
                let ended = &ended;
                let part = scope.spawn(move || {
                    Parker::new().park_timeout(Duration::from_millis(1)).unwrap();
                    let inner = scope.spawn(move || ended.fetch_add(1, Ordering::SeqCst));
                    ended.fetch_add(1, Ordering::SeqCst);
                    inner.map(drop)
                });
                drop(part?);
            }
            Ok::<_, Error>(())
        });
        result?;
        Ok(writeln!(connection, "{line} {}", ended.into_inner())?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, "all"), format!("all {}", 2 * PARTS), "{mixin}");
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn a_panic_goes_on_in_the_parent_after_all_have_ended() {
    let handler = answers(|line, connection| {
        let ended = AtomicUsize::new(0);
        let slow = || {
            Parker::new().park_timeout(SHORT).unwrap();
            ended.fetch_add(1, Ordering::SeqCst);
        };
        let run = || {
            scope(|scope| {
                drop(scope.spawn(slow).unwrap());
                match line {
                    "part" => drop(scope.spawn(|| panic!("as it should")).unwrap()),
                    "joined" => {
                        let part = scope.spawn(|| panic!("as it should")).unwrap();
                        let panic = part.join().unwrap_err();
                        assert_eq!(panic.downcast_ref(), Some(&"as it should"));
                    }
                    "closure" => panic!("as it should"),
                    _ => {}
                }
                drop(scope.spawn(slow).unwrap());
            });
        };
        let result = catch_unwind(AssertUnwindSafe(run));
        let panic = result.err().and_then(|panic| panic.downcast_ref::<&str>().copied());
        Ok(writeln!(connection, "{:?} {}", panic, ended.load(Ordering::SeqCst))?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        for (line, expected) in [
            ("part", "Some(\"as it should\") 2"),
            ("joined", "None 2"),
            ("closure", "Some(\"as it should\") 1"),
            ("none", "None 2"),
        ] {
            assert_eq!(ask(&client, line), expected, "{mixin}: {line}");
        }
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn results_are_dropped_before_the_scope_ends() {
    struct Slow<'a>(&'a AtomicUsize);
    impl Drop for Slow<'_> {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(5));
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let handler = answers(|line, connection| {
        let dropped = AtomicUsize::new(0);
        scope(|scope| {
            let kept = scope.spawn(|| Slow(&dropped))?;
            drop(scope.spawn(|| Slow(&dropped))?);
            let _ = kept.is_finished();
            Ok::<_, Error>(())
        })?;
        Ok(writeln!(connection, "{line} {}", dropped.into_inner())?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, "dropped"), "dropped 2", "{mixin}");
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn parts_have_the_time_limit_of_the_scope() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let handler = answers(move |line, connection| {
        let mut upstream = connection.connect(address, LONG)?;
        let began = Instant::now();
        connection.within(SHORT, |connection| {
            connection.scope(|scope| {
                let reads = scope.spawn(|| upstream.read_line(&mut String::new()))?;
                let parks = scope.spawn(|| Parker::new().park())?;
                let error = reads.join().unwrap().unwrap_err();
                assert!(matches!(Error::of(&error), Some(Error::Timeout { .. })), "{error:?}");
                let error = parks.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
                Ok::<_, Error>(())
            })
        })?;
        assert!(began.elapsed() >= SHORT);
        Ok(writeln!(connection, "{line}")?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, "hello"), "hello", "{mixin}");
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn a_stop_that_is_out_of_time_ends_the_waits_of_parts() {
    let handler = handler_fn(|connection| {
        writeln!(connection, "waiting")?;
        connection.flush()?;
        let error = connection.scope(|scope| {
            let part = scope.spawn(move || {
                // Also of a part of a part.
                scope.spawn(|| Parker::new().park())?.join().unwrap()
            })?;
            part.join().unwrap()
        });
        assert!(matches!(error, Err(Error::Stopped)), "{error:?}");
        Ok(())
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(line_of(&client), "waiting");
        let handle = server.handle();
        let report = server.stop(Duration::from_millis(500));
        // On a busy machine after the report.
        wait_until("the handler has ended", || handle.stats().finished == 1);
        assert_eq!(report.drained, 0, "{mixin}: {report:?}");
        assert_eq!(handle.stats().panicked, 0, "{mixin}");
    });
}

#[test]
fn a_scope_outside_of_a_server_runs_threads() {
    let here = thread::current().id();
    let there = scope(|scope| scope.spawn(|| thread::current().id()).unwrap().join().unwrap());
    assert_ne!(here, there);
}

#[test]
fn a_handler_on_a_thread_runs_parts_on_threads() {
    let handler = handler_fn(|connection| {
        let here = thread::current().id();
        let there = connection.scope(|scope| {
            scope.spawn(|| thread::current().id()).map(|part| part.join().unwrap())
        })?;
        Ok(writeln!(connection, "{}", here == there)?)
    });
    let server = TcpServer::bind("127.0.0.1:0", handler).unwrap().spawn().unwrap();
    assert_eq!(line_of(&Client::of(&server)), "false");
    stops_cleanly(server);
}

mod on_fibers {
    use super::*;
    use crate::support::servers::serve_with;

    #[test]
    fn parts_are_fibers_of_the_worker_which_goes_on_with_others() {
        let handler = answers(|line, connection| {
            if line == "hello" {
                return Ok(writeln!(connection, "{line}")?);
            }
            let here = thread::current().id();
            // Not `Sync`: it stays on this thread.
            let is_here = Cell::new(true);
            connection.scope(|scope| {
                let parts = (0..1000).map(|_| {
                    scope.spawn(move || {
                        Parker::new().park_timeout(SHORT).unwrap();
                        thread::current().id() == here
                    })
                });
                let parts: Vec<_> = parts.collect::<socketserver::Result<Vec<_>>>()?;
                is_here.set(parts.into_iter().all(|part| part.join().unwrap()));
                Ok::<_, Error>(())
            })?;
            Ok(writeln!(connection, "{}", is_here.get())?)
        });
        let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(1));
        let server = serve_with(builder, handler);
        let (client, other) = (Client::of(&server), Client::of(&server));
        client.send("parts\n");
        wait_until("they are served", || server.stats().active == 2);
        assert_eq!(ask(&other, "hello"), "hello");
        assert_eq!(line_of(&client), "true");
        // The parts are no requests.
        assert_eq!((server.stats().active, server.stats().accepted), (2, 2));
        drop((client, other));
        stops_cleanly(server);
    }

    #[test]
    fn parts_do_not_count_as_requests_of_their_worker() {
        let handler = answers(|line, connection| {
            if line == "parts" {
                connection
                    .scope(|scope| (0..100).try_for_each(|_| scope.spawn(|| ()).map(drop)))?;
            }
            Ok(writeln!(connection, "{:?}", thread::current().id())?)
        });
        let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
        let server = serve_with(builder, handler);
        let client = Client::of(&server);
        ask(&client, "parts");
        let others: Vec<_> = (0..20).map(|_| Client::of(&server)).collect();
        let mut threads: Vec<_> = others.iter().map(|client| ask(client, "where?")).collect();
        threads.sort_unstable();
        threads.dedup();
        assert_eq!(threads.len(), 2);
        drop((client, others));
        stops_cleanly(server);
    }

    /// While a panic unwinds no fiber suspends, so that the parts are threads.
    #[test]
    fn a_scope_in_a_destructor_during_a_panic_ends() {
        struct RunsParts<'a>(&'a AtomicUsize);
        impl Drop for RunsParts<'_> {
            fn drop(&mut self) {
                scope(|scope| {
                    let part = scope.spawn(|| self.0.fetch_add(1, Ordering::SeqCst));
                    part.unwrap().join().unwrap();
                });
            }
        }
        let handler = handler_fn(|connection| {
            let ran = AtomicUsize::new(0);
            let panics = || {
                let _runs = RunsParts(&ran);
                panic!("as it should");
            };
            catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
            Ok(writeln!(connection, "{}", ran.load(Ordering::SeqCst))?)
        });
        let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(1));
        let server = serve_with(builder, handler);
        assert_eq!(line_of(&Client::of(&server)), "1");
        stops_cleanly(server);
    }
}

#[test]
fn parts_use_upstreams_at_the_same_time() {
    let upstream = serve(answers(|line, connection| {
        thread::sleep(Duration::from_millis(1));
        Ok(writeln!(connection, "<{line}>")?)
    }));
    let address = upstream.local_addr().clone();
    let handler = answers(move |line, connection| {
        let mut upstreams = Vec::new();
        for _ in 0..5 {
            upstreams.push(connection.connect(&address, LONG)?);
        }
        let answers = connection.scope(|scope| {
            let ask = |upstream: &mut Connection| -> io::Result<String> {
                writeln!(upstream, "{line}")?;
                let mut answer = String::new();
                upstream.read_line(&mut answer)?;
                Ok(answer)
            };
            let parts = upstreams.iter_mut().map(|upstream| scope.spawn(move || ask(upstream)));
            let parts: Vec<_> = parts.collect::<socketserver::Result<Vec<_>>>()?;
            let answers = parts.into_iter().map(|part| part.join().unwrap());
            Ok::<_, Error>(answers.collect::<io::Result<String>>()?)
        })?;
        Ok(writeln!(connection, "{}", answers.replace('\n', ""))?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, "hi"), "<hi>".repeat(5), "{mixin}");
        drop(client);
        stops_cleanly(server);
    });
    stops_cleanly(upstream);
}
