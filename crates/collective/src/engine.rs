//! The calls of a rank, over any link.

use std::time::Instant;

use crate::header::{self, Call, Header, Kind};
use crate::link::Link;
use crate::tree::{self, Wire};
use crate::watch::Watch;
use crate::{Error, Result, Traffic};

/// A rank's end: counts its calls, and knows if one has failed.
#[derive(Debug)]
pub(crate) struct Engine<L> {
    link: L,
    watch: Watch,
    calls: u64,
    traffic: Traffic,
    /// Why no more calls are made: the first failure that all ranks know of.
    failure: Option<Error>,
}

impl<L: Link> Engine<L> {
    pub(crate) fn new(link: L, watch: Watch) -> Self {
        Self { link, watch, calls: 0, traffic: Traffic::default(), failure: None }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Adds `values` over all ranks, in place.
    pub(crate) fn sum<W: Wire>(&mut self, kind: Kind, wire: &mut W, values: &mut [W::Value]) -> Result<()> {
        let began = Instant::now();
        let call = self.call(kind, values.len())?;
        let (rank, levels) = (self.link.rank(), tree::levels(self.link.world()));
        let mut share = 0..values.len();
        for level in 0..levels {
            let (own, theirs) = tree::halves(share, rank, level);
            if self.meet(level, call)?.is_some() {
                let link =
                    &mut Counted { link: &mut self.link, watch: &self.watch, traffic: &mut self.traffic };
                wire.reduce(link, tree::partner(rank, level), values, own.clone(), theirs)
                    .map_err(|error| self.failure.insert(error).clone())?;
            }
            share = own;
        }
        self.check()?;
        if levels > 0 {
            wire.settle(&mut values[share]);
        }
        // Back from the smallest share: on each level the partner has the other half.
        for level in (0..levels).rev() {
            let whole = (0..level).fold(0..values.len(), |share, level| tree::halves(share, rank, level).0);
            let (own, theirs) = tree::halves(whole, rank, level);
            let link = &mut Counted { link: &mut self.link, watch: &self.watch, traffic: &mut self.traffic };
            wire.gather(link, tree::partner(rank, level), values, own, theirs)
                .map_err(|error| self.failure.insert(error).clone())?;
        }
        self.traffic.sums += 1;
        self.traffic.seconds += began.elapsed().as_secs_f64();
        Ok(())
    }

    /// What each rank gives, in the order of the ranks.
    pub(crate) fn gather(&mut self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let began = Instant::now();
        let (rank, world) = (self.link.rank(), self.link.world());
        let mut call = self.call(Kind::Gather, 0)?;
        let mut known: Vec<Option<Vec<u8>>> = vec![None; world];
        known[rank] = Some(bytes);
        for level in 0..tree::levels(world) {
            let block = encode(&known);
            call.len = block.len() as u64;
            let Some(len) = self.meet(level, call)? else { continue };
            let mut theirs = vec![0; len as usize];
            let mut link = Counted { link: &mut self.link, watch: &self.watch, traffic: &mut self.traffic };
            link.exchange(tree::partner(rank, level), &block, &mut theirs)
                .map_err(|error| self.failure.insert(error).clone())?;
            decode(&theirs, &mut known);
        }
        self.check()?;
        self.traffic.gatherings += 1;
        self.traffic.seconds += began.elapsed().as_secs_f64();
        Ok(known.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Tells all ranks, in the call that they make next, that this one has failed. Once only: a failure that this rank knows
    /// of already is known to all.
    pub(crate) fn fail(&mut self, message: String) {
        if self.failure.is_some() {
            return;
        }
        let (rank, calls) = (self.link.rank(), self.calls);
        self.failure = Some(Error::Failed { rank, message });
        let call = Call { kind: Kind::Failure, number: calls, len: 0 };
        for level in 0..tree::levels(self.link.world()) {
            if self.meet(level, call).is_err() {
                return;
            }
        }
    }

    /// The next call.
    fn call(&mut self, kind: Kind, len: usize) -> Result<Call> {
        self.check()?;
        let call = Call { kind, number: self.calls, len: len as u64 };
        self.calls += 1;
        Ok(call)
    }

    fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Exchanges headers with the partner of a level: the length of its call, or `None` where one of the two knows of a
    /// failure, so that there is no message. Both then know of it, and on the last level all ranks.
    ///
    /// # Errors
    /// The partner cannot be reached.
    fn meet(&mut self, level: u32, call: Call) -> Result<Option<u64>> {
        let rank = self.link.rank();
        let partner = tree::partner(rank, level);
        let failure = self.failure.as_ref().map(|error| match error {
            Error::Failed { rank, message } => (*rank, message.clone()),
            Error::Mismatch { rank, .. } => (*rank, error.to_string()),
            error => (rank, error.to_string()),
        });
        let mine = Header { call, failure };
        let mut bytes = [0; header::LEN];
        let mut link = Counted { link: &mut self.link, watch: &self.watch, traffic: &mut self.traffic };
        link.exchange(partner, &mine.to_bytes(), &mut bytes)
            .map_err(|error| self.failure.insert(error).clone())?;
        let theirs = Header::from_bytes(&bytes).ok_or_else(|| {
            let (found, expected) = ("what is no call".into(), call.to_string());
            self.failure.insert(Error::Mismatch { rank: partner, other: rank, found, expected }).clone()
        })?;
        match (&mine.failure, &theirs.failure) {
            (None, None) => match mine.check(rank, &theirs, partner) {
                Ok(()) => return Ok(Some(theirs.call.len)),
                Err(error) => self.failure = Some(error),
            },
            (Some((own, _)), Some((failed, _))) if own <= failed => {}
            (_, Some((rank, message))) => {
                self.failure = Some(Error::Failed { rank: *rank, message: message.clone() });
            }
            (Some(_), None) => {}
        }
        Ok(None)
    }
}

/// A link that counts what goes through it, and says whom it waits for.
struct Counted<'a, L> {
    link: &'a mut L,
    watch: &'a Watch,
    traffic: &'a mut Traffic,
}

impl<L: Link> Link for Counted<'_, L> {
    fn rank(&self) -> usize {
        self.link.rank()
    }

    fn world(&self) -> usize {
        self.link.world()
    }

    fn exchange(&mut self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<()> {
        self.watch.waits_for(partner);
        self.link.exchange(partner, send, receive)?;
        self.watch.waits_no_more();
        self.traffic.messages += 1;
        self.traffic.bytes_sent += send.len() as u64;
        Ok(())
    }
}

/// The ranks that are known, each with its length and its bytes.
fn encode(known: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (rank, bytes) in known.iter().enumerate() {
        if let Some(bytes) = bytes {
            block.extend((rank as u64).to_le_bytes());
            block.extend((bytes.len() as u64).to_le_bytes());
            block.extend(bytes);
        }
    }
    block
}

/// Puts in `known` what another rank encoded. Its header has been checked, so what comes is whole.
fn decode(mut block: &[u8], known: &mut [Option<Vec<u8>>]) {
    let number = |block: &mut &[u8]| {
        let (bytes, rest) = block.split_first_chunk()?;
        *block = rest;
        Some(u64::from_le_bytes(*bytes) as usize)
    };
    while let (Some(rank), Some(len)) = (number(&mut block), number(&mut block)) {
        let (bytes, rest) = block.split_at(len.min(block.len()));
        if let Some(slot) = known.get_mut(rank) {
            *slot = Some(bytes.to_vec());
        }
        block = rest;
    }
}
