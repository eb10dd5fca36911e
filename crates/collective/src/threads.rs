//! Ranks that are threads of one process.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::link::Link;
use crate::ranks::Ranks;
use crate::{Error, Result};

impl Ranks {
    /// `world` ranks in this process, in order, each to be moved to a thread of its own: to test a program for several
    /// ranks without MPI.
    ///
    /// ```
    /// use std::thread;
    /// use candle_core::{Device, Tensor};
    /// use wrn_sam_collective::{Collective, Ranks, Precision, Result};
    ///
    /// let sum = |ranks: Ranks| -> Result<Vec<Tensor>> {
    ///     let own = Tensor::full(ranks.rank() as f32, 3, &Device::Cpu)?;
    ///     ranks.all_reduce(&[own], Precision::Exact)?.wait()
    /// };
    /// let ranks: Vec<_> = Ranks::threads(4)?.into_iter().map(|ranks| thread::spawn(move || sum(ranks))).collect();
    /// for rank in ranks {
    ///     let sum = rank.join().unwrap()?;
    ///     assert_eq!(sum[0].to_vec1::<f32>()?, [6.0; 3]); // 0 + 1 + 2 + 3
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WorldSize`] for a number of ranks that is not a power of two.
    pub fn threads(world: usize) -> Result<Vec<Self>> {
        if !world.is_power_of_two() {
            return Err(Error::WorldSize { world });
        }
        // channels[from][to]
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..world {
            let (from, to): (Vec<_>, Vec<_>) = (0..world).map(|_| channel()).unzip();
            senders.push(from);
            receivers.push(to.into_iter());
        }
        let inboxes: Vec<Vec<_>> =
            (0..world).map(|_| receivers.iter_mut().filter_map(Iterator::next).collect()).collect();
        let ends = senders.into_iter().zip(inboxes).enumerate();
        ends.map(|(rank, (senders, inbox))| Self::start(move || Ok(Channels { rank, senders, inbox })))
            .collect()
    }
}

/// A rank's ends of the channels to and from each rank.
struct Channels {
    rank: usize,
    senders: Vec<Sender<Vec<u8>>>,
    inbox: Vec<Receiver<Vec<u8>>>,
}

impl Link for Channels {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.senders.len()
    }

    fn exchange(&mut self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<()> {
        let gone = Error::Gone { rank: partner };
        self.senders[partner].send(send.to_vec()).map_err(|_| gone.clone())?;
        let message = self.inbox[partner].recv().map_err(|_| gone)?;
        receive.copy_from_slice(&message);
        Ok(())
    }
}
