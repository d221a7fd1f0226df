//! The one thread that writes to sled, so that its panics and its stalls reach nobody else.
//!
//! sled has threads of its own, and where one of them panics whoever flushes waits for ever. The
//! caller here waits for an answer, for the thread's end, or for a limit of time, and has a typed
//! error in any case. Knows nothing of records.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::storage::StorageError;
use crate::storage::linger::{LINGER, linger};
use crate::storage::system_files::{corrupt, io_error};

/// How long a flush of sled's usually takes, at most: so long the caller looks out for its end.
const FLUSH_LINGER: Duration = Duration::from_micros(400);

/// What is to be done with the database.
type Job = Box<dyn FnOnce() -> Result<(), StorageError> + Send>;

/// The thread, with the channels to and from it.
#[derive(Debug)]
pub(super) struct Worker {
    path: PathBuf,
    stall_limit: Duration,
    /// `None` once the worker is told to end.
    jobs: Option<Sender<Job>>,
    answers: Receiver<Result<(), StorageError>>,
    thread: Option<JoinHandle<()>>,
    /// Set after a stall: the thread is left to itself, and nothing is asked of it any more.
    is_stalled: Mutex<bool>,
}

impl Worker {
    /// Starts the thread. What a job owns is dropped there too.
    pub(super) fn start(path: &Path, stall_limit: Duration) -> Result<Worker, StorageError> {
        let (jobs, jobs_to_do) = bounded::<Job>(1);
        let (answer, answers) = bounded(1);
        let job_path = path.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("quorate-sled".to_owned())
            .spawn(move || {
                let next = || {
                    linger(LINGER, || !jobs_to_do.is_empty());
                    jobs_to_do.recv().ok()
                };
                while let Some(job) = next() {
                    if answer.send(guard(&job_path, job)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| io_error("start a thread for", path, &error))?;
        Ok(Worker {
            path: path.to_path_buf(),
            stall_limit,
            jobs: Some(jobs),
            answers,
            thread: Some(thread),
            is_stalled: Mutex::new(false),
        })
    }

    /// Does the job on the thread and waits for it, within the limit. One caller at a time.
    pub(super) fn run(
        &self,
        job: impl FnOnce() -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), StorageError> {
        let mut is_stalled = self.is_stalled.lock();
        let failed = |reason: String| StorageError::Io {
            doing: "write",
            path: self.path.display().to_string(),
            reason,
        };
        if *is_stalled {
            return Err(failed("sled does not answer any more".to_owned()));
        }
        let sent = self
            .jobs
            .as_ref()
            .map(|jobs| jobs.send(Box::new(job)).is_ok());
        if sent != Some(true) {
            return Err(failed(
                "the thread that writes to sled has ended".to_owned(),
            ));
        }
        linger(FLUSH_LINGER, || !self.answers.is_empty());
        match self.answers.recv_timeout(self.stall_limit) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                *is_stalled = true;
                let limit_ms = self.stall_limit.as_millis();
                Err(failed(format!(
                    "sled did not answer within {limit_ms} ms; one of its threads may have panicked"
                )))
            }
            Err(RecvTimeoutError::Disconnected) => Err(failed(
                "the thread that writes to sled has ended".to_owned(),
            )),
        }
    }
}

impl Drop for Worker {
    /// Waits for the thread's end, unless it hangs.
    fn drop(&mut self) {
        self.jobs = None;
        if let (false, Some(thread)) = (*self.is_stalled.get_mut(), self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Does something with sled and turns a panic into an error.
pub(super) fn guard<T>(
    path: &Path,
    act: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(corrupt(path, 0, format!("sled panicked: {words}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(limit_ms: u64) -> Worker {
        let limit = Duration::from_millis(limit_ms);
        Worker::start(Path::new("the-database"), limit).expect("a thread")
    }

    #[test]
    fn a_panic_on_the_thread_is_a_typed_error_and_not_its_end() {
        let worker = worker(60_000);
        let panicked = worker.run(|| panic!("as sled does"));
        assert!(
            matches!(&panicked, Err(StorageError::Corrupt { path, reason, .. })
                if path == "the-database" && reason.contains("as sled does")),
            "{panicked:?}"
        );
        assert!(worker.run(|| Ok(())).is_ok());
    }

    #[test]
    fn a_stall_is_a_typed_error_for_good() {
        let worker = worker(1);
        let (release, held) = bounded::<()>(0);
        let stalled = worker.run(move || {
            let _ = held.recv();
            Ok(())
        });
        assert!(
            matches!(stalled, Err(StorageError::Io { .. })),
            "{stalled:?}"
        );
        drop(release);
        let later = worker.run(|| Ok(()));
        assert!(matches!(later, Err(StorageError::Io { .. })), "{later:?}");
    }
}
