//! The threads that serve connections: one for each core, each with a small runtime of its own. A
//! connection stays on the thread it was given to, so its tasks are never stolen, and answers that
//! come together wake each thread once. Nothing here knows what a connection carries.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::bell;

/// Threads with a runtime each. They end, and with them whatever they still run, when this is
/// dropped.
#[derive(Debug)]
pub struct Workers {
    runtimes: Vec<(Handle, Stop)>,
    next: AtomicUsize,
}

/// Ends a thread by being dropped.
type Stop = oneshot::Sender<()>;

impl Workers {
    /// One thread per core that this process may use.
    ///
    /// # Errors
    /// The system has no thread, or no descriptor, to give.
    pub fn start() -> io::Result<Workers> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let runtimes = (0..cores).map(start_one).collect::<io::Result<_>>()?;
        Ok(Workers { runtimes, next: AtomicUsize::new(0) })
    }

    /// Gives `task` to the thread whose turn it is, as one of `tasks`.
    pub fn spawn<F>(&self, tasks: &mut JoinSet<()>, task: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.runtimes.len();
        tasks.spawn_on(task, &self.runtimes[turn].0)
    }
}

fn start_one(number: usize) -> io::Result<(Handle, Stop)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::Builder::new().name(format!("http-{number}")).spawn(move || {
        runtime.spawn(bell::answer());
        // Nothing is ever sent: it ends when the other side is dropped.
        let _ = runtime.block_on(stopped);
        // Blocking jobs, such as looking up a name, are not waited for.
        runtime.shutdown_background();
    })?;
    Ok((handle, stop))
}
