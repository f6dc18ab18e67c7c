//! Doing something inside another network namespace: on a thread of its own, so that the rest of
//! the process stays where it is. Sockets keep the namespace in which they were opened.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Runs `work` in the network namespace at `path` (a bound file, or /proc/PID/ns/net); without a
/// path, in our own.
pub fn within<T: Send>(
    path: Option<&Path>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(path) = path else { return work() };
    let namespace = File::open(path).map_err(|error| named(path, error))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|error| named(path, error.into()))?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("thread in a namespace panicked")))
    })
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("network namespace {}: {error}", path.display()))
}
