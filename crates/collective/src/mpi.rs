//! Ranks that are processes under MPI.

use std::thread;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};

use crate::link::Link;
use crate::ranks::Ranks;
use crate::{Error, Result};

/// The most bytes of one message: MPI counts them in 31 bits.
const MESSAGE: usize = 1 << 30;

/// How long a waiting rank asks MPI again and again before it sleeps between two questions, and how long it then sleeps. A
/// long message advances only while it is asked for, and comes after a short one that was waited for; so there is more time for it.
const AWAKE: Duration = Duration::from_micros(200);
const AWAKE_FOR_A_BYTE: Duration = Duration::from_nanos(20);
const NAP: Duration = Duration::from_micros(50);

const TAG: mpi::Tag = 17;

impl Ranks {
    /// This process's rank among those that `mpirun` or `srun` started, or the only rank where it was started by itself.
    ///
    /// MPI is initialized here, once in a process, and finalized when this is dropped. Messages go between two ranks at
    /// a time; MPI's own sums are not used, because their order may depend on the number of ranks.
    ///
    /// # Errors
    /// [`Error::WorldSize`] for a number of ranks that is not a power of two; [`Error::Mpi`] where MPI was initialized
    /// already.
    pub fn mpi() -> Result<Self> {
        Self::start(Processes::new)
    }
}

struct Processes {
    rank: usize,
    world: SimpleCommunicator,
    /// Finalizes MPI when it is dropped.
    _universe: Universe,
}

impl Processes {
    fn new() -> Result<Self> {
        // All calls are made by this thread.
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or(Error::Mpi("it was initialized already, and can be only once in a process"))?;
        let world = universe.world();
        Ok(Self { rank: world.rank() as usize, world, _universe: universe })
    }

    /// Both directions at once, and little work while nothing comes: the network may compute on the same core.
    fn exchange_message(&self, partner: usize, send: &[u8], receive: &mut [u8]) {
        let process = self.world.process_at_rank(partner as i32);
        let bytes = send.len().max(receive.len()) as u32;
        let awake = AWAKE + AWAKE_FOR_A_BYTE * bytes;
        mpi::request::scope(|scope| {
            let mut receiving = Some(process.immediate_receive_into_with_tag(scope, receive, TAG));
            let mut sending = Some(process.immediate_send_with_tag(scope, send, TAG));
            let began = Instant::now();
            loop {
                receiving = receiving.and_then(|request| request.test().err());
                sending = sending.and_then(|request| request.test().err());
                if receiving.is_none() && sending.is_none() {
                    return;
                }
                if began.elapsed() < awake { thread::yield_now() } else { thread::sleep(NAP) }
            }
        });
    }
}

impl Link for Processes {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world.size() as usize
    }

    fn exchange(&mut self, partner: usize, mut send: &[u8], mut receive: &mut [u8]) -> Result<()> {
        while !send.is_empty() || !receive.is_empty() {
            let (sent, left) = send.split_at(send.len().min(MESSAGE));
            let (received, room) = receive.split_at_mut(receive.len().min(MESSAGE));
            self.exchange_message(partner, sent, received);
            (send, receive) = (left, room);
        }
        Ok(())
    }
}
