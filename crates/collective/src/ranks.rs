//! A rank whose messages a thread of its own exchanges, so that they travel while the network computes.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use candle_core::Tensor;

use crate::engine::Engine;
use crate::header::Kind;
use crate::link::Link;
use crate::tree::{Exact, Rounded};
use crate::values::Values;
use crate::watch::Watch;
use crate::{Collective, Error, Pending, Precision, Result, Traffic};

/// How long a rank waits for another unless told otherwise: longer than a step, an evaluation's share or a checkpoint takes.
const DEADLINE: Duration = Duration::from_secs(600);

/// How often a waiting rank looks whether the deadline has passed.
const LOOK: Duration = Duration::from_millis(100);

/// One of several ranks: processes under MPI (`Ranks::mpi`, with the feature `mpi`) or threads of this process ([`Ranks::threads`]).
///
/// The sums follow one tree over the ranks (see [`Collective::all_reduce`]), and their messages are exchanged by a thread of
/// their own. The thread sleeps while it waits, so that it takes little time from a network on the same core.
///
/// A rank that ends or hangs is found in two ways. MPI's launcher ends all processes as soon as one was killed. And where a
/// rank has not answered before the deadline, the calls of the others return [`Error::Silent`].
pub struct Ranks {
    rank: usize,
    world: usize,
    deadline: Duration,
    watch: Watch,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is asked for, and where its answer goes.
enum Job {
    Sum { values: Values, precision: Precision, reply: Sender<Result<Values>> },
    Gather { bytes: Vec<u8>, reply: Sender<Result<Vec<Vec<u8>>>> },
    Fail { message: String, reply: Sender<Result<()>> },
    Traffic { reply: Sender<Result<Traffic>> },
}

impl Ranks {
    /// Starts the thread, which makes its link by `connect`.
    pub(crate) fn start<L: Link>(connect: impl FnOnce() -> Result<L> + Send + 'static) -> Result<Self> {
        let watch = Watch::default();
        let (jobs, inbox) = channel();
        let (started, start) = channel();
        let watched = watch.clone();
        let body = move || match connect() {
            Ok(link) => {
                let place = (link.rank(), link.world());
                if started.send(Ok(place)).is_ok() {
                    work(&mut Engine::new(link, watched), &inbox);
                }
            }
            // Nobody listens where the caller has ended.
            Err(error) => drop(started.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("wrn-sam-ranks".into()).spawn(body);
        let thread = thread.map_err(|error| Error::Candle(format!("cannot start a thread: {error}")))?;
        let (rank, world) = start.recv().unwrap_or(Err(Error::Gone { rank: 0 }))?;
        let ranks = Self { rank, world, deadline: DEADLINE, watch, jobs: Some(jobs), thread: Some(thread) };
        if !world.is_power_of_two() {
            return Err(Error::WorldSize { world });
        }
        Ok(ranks)
    }

    /// With this deadline in place of 10 minutes. It must be longer than the slowest rank's step, and than the evaluation and
    /// the files between two of them.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn ask<T>(&self, job: impl FnOnce(Sender<Result<T>>) -> Job) -> Answer<T> {
        let (reply, answer) = channel();
        if let Some(jobs) = &self.jobs {
            // Where the thread has ended, the answer says so.
            let _ = jobs.send(job(reply));
        }
        Answer { answer, rank: self.rank, deadline: self.deadline, watch: self.watch.clone() }
    }
}

fn work<L: Link>(engine: &mut Engine<L>, inbox: &Receiver<Job>) {
    let (mut exact_f32, mut exact_f64, mut rounded) =
        (Exact::<f32>::default(), Exact::<f64>::default(), Rounded::default());
    // Who asked may have left without waiting: its answer is dropped, and the ranks stay in step.
    for job in inbox {
        match job {
            Job::Sum { mut values, precision, reply } => {
                let done = match (&mut values, precision) {
                    (Values::F32(values), Precision::Exact) => {
                        engine.sum(Kind::SumF32, &mut exact_f32, values)
                    }
                    (Values::F32(values), Precision::Bf16) => engine.sum(Kind::SumBf16, &mut rounded, values),
                    (Values::F64(values), _) => engine.sum(Kind::SumF64, &mut exact_f64, values),
                };
                let _ = reply.send(done.map(|()| values));
            }
            Job::Gather { bytes, reply } => drop(reply.send(engine.gather(bytes))),
            Job::Fail { message, reply } => {
                engine.fail(message);
                let _ = reply.send(Ok(()));
            }
            Job::Traffic { reply } => drop(reply.send(Ok(engine.traffic()))),
        }
    }
}

/// An answer of the thread that may not be there yet.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    answer: Receiver<Result<T>>,
    rank: usize,
    deadline: Duration,
    watch: Watch,
}

impl<T> Answer<T> {
    pub(crate) fn wait(self) -> Result<T> {
        loop {
            match self.answer.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Gone { rank: self.rank }),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(rank) = self.watch.silent(self.deadline) {
                        return Err(Error::Silent { rank, seconds: self.deadline.as_secs_f64() });
                    }
                }
            }
        }
    }
}

impl Collective for Ranks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, tensors: &[Tensor], precision: Precision) -> Result<Pending> {
        let values = Values::pack(tensors)?;
        let shapes = tensors.iter().map(|tensor| tensor.shape().clone()).collect();
        let device = tensors.first().map(|tensor| tensor.device().clone());
        let sum = self.ask(|reply| Job::Sum { values, precision, reply });
        Ok(Pending::sent(sum, shapes, device))
    }

    fn all_gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.ask(|reply| Job::Gather { bytes, reply }).wait()
    }

    fn fail(&self, message: &str) {
        // The others learn of it in their next call; where they never make one, the deadline ends the wait.
        let _ = self.ask(|reply| Job::Fail { message: message.into(), reply }).wait();
    }

    fn traffic(&self) -> Result<Traffic> {
        self.ask(|reply| Job::Traffic { reply }).wait()
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.world)
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread that waits for a rank which is gone would keep this one from ending.
        if let Some(thread) = self.thread.take()
            && self.watch.silent(self.deadline).is_none()
        {
            let _ = thread.join();
        }
    }
}
