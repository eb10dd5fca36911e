//! One order of additions for any number of ranks.
//!
//! Ranks are the leaves of a binary tree: first 0 + 1, 2 + 3, ..., then the sums of these pairs, and so on. A rank that
//! adds its own block of parts in the same way continues the same tree, so the sum of 8 parts has the same bits on 1, 2,
//! 4 and 8 ranks. (a + b and b + a have the same bits.)
//!
//! Each message has half of the elements of the one before: after the first half of the work a rank has the sum of its
//! own share of the elements, and then shares are passed back. A rank so sends and receives 2 (W - 1) / W times the
//! vector. The algorithm is recursive halving and doubling (Thakur, Rabenseifner and Gropp, "Optimization of collective
//! communication operations in MPICH", 2005), with the nearest partner first.

use std::ops::{AddAssign, Range};

use bytemuck::Pod;
use half::bf16;

use crate::Result;
use crate::link::Link;

/// The number of levels of a tree with `world` leaves, a power of two.
pub(crate) fn levels(world: usize) -> u32 {
    world.trailing_zeros()
}

/// The partner of `rank` on a level, from 0.
pub(crate) fn partner(rank: usize, level: u32) -> usize {
    rank ^ (1 << level)
}

/// The two halves of a rank's share on a level: the one it keeps, and the one its partner keeps.
pub(crate) fn halves(share: Range<usize>, rank: usize, level: u32) -> (Range<usize>, Range<usize>) {
    let middle = share.start + share.len() / 2;
    let (lower, upper) = (share.start..middle, middle..share.end);
    if rank & (1 << level) == 0 { (lower, upper) } else { (upper, lower) }
}

/// Two ranges of one slice that do not overlap.
fn both<T>(values: &mut [T], one: Range<usize>, other: Range<usize>) -> (&mut [T], &mut [T]) {
    if one.end <= other.start {
        let (left, right) = values.split_at_mut(other.start);
        (&mut left[one], &mut right[..other.len()])
    } else {
        let (left, right) = values.split_at_mut(one.start);
        (&mut right[..one.len()], &mut left[other])
    }
}

/// How values travel.
pub(crate) trait Wire {
    type Value;

    /// Sends `values[theirs]` and adds what comes to `values[own]`.
    fn reduce(
        &mut self,
        link: &mut impl Link,
        partner: usize,
        values: &mut [Self::Value],
        own: Range<usize>,
        theirs: Range<usize>,
    ) -> Result<()>;

    /// Makes a rank's share what it will be for the others.
    fn settle(&self, share: &mut [Self::Value]);

    /// Sends `values[own]` and puts what comes in `values[theirs]`.
    fn gather(
        &mut self,
        link: &mut impl Link,
        partner: usize,
        values: &mut [Self::Value],
        own: Range<usize>,
        theirs: Range<usize>,
    ) -> Result<()>;
}

/// Every bit travels.
#[derive(Debug, Default)]
pub(crate) struct Exact<T>(Vec<T>);

impl<T: Pod + AddAssign> Wire for Exact<T> {
    type Value = T;

    fn reduce(
        &mut self,
        link: &mut impl Link,
        partner: usize,
        values: &mut [T],
        own: Range<usize>,
        theirs: Range<usize>,
    ) -> Result<()> {
        self.0.resize(own.len().max(self.0.len()), T::zeroed());
        let received = &mut self.0[..own.len()];
        link.exchange(partner, bytemuck::cast_slice(&values[theirs]), bytemuck::cast_slice_mut(received))?;
        for (value, received) in values[own].iter_mut().zip(received) {
            *value += *received;
        }
        Ok(())
    }

    fn settle(&self, _share: &mut [T]) {}

    fn gather(
        &mut self,
        link: &mut impl Link,
        partner: usize,
        values: &mut [T],
        own: Range<usize>,
        theirs: Range<usize>,
    ) -> Result<()> {
        let (own, theirs) = both(values, own, theirs);
        link.exchange(partner, bytemuck::cast_slice(own), bytemuck::cast_slice_mut(theirs))
    }
}

/// Half of the bytes: each partial sum is rounded to bfloat16 before it is sent, and added in f32.
#[derive(Debug, Default)]
pub(crate) struct Rounded {
    sent: Vec<bf16>,
    received: Vec<bf16>,
}

impl Rounded {
    fn exchange(
        &mut self,
        link: &mut impl Link,
        partner: usize,
        send: &[f32],
        len: usize,
    ) -> Result<&[bf16]> {
        self.sent.clear();
        self.sent.extend(send.iter().map(|&value| bf16::from_f32(value)));
        self.received.resize(len, bf16::ZERO);
        link.exchange(
            partner,
            bytemuck::cast_slice(&self.sent),
            bytemuck::cast_slice_mut(&mut self.received),
        )?;
        Ok(&self.received)
    }
}

impl Wire for Rounded {
    type Value = f32;

    fn reduce(
        &mut self,
        link: &mut impl Link,
        partner: usize,
        values: &mut [f32],
        own: Range<usize>,
        theirs: Range<usize>,
    ) -> Result<()> {
        let received = self.exchange(link, partner, &values[theirs], own.len())?;
        for (value, received) in values[own].iter_mut().zip(received) {
            *value += received.to_f32();
        }
        Ok(())
    }

    fn settle(&self, share: &mut [f32]) {
        for value in share {
            *value = bf16::from_f32(*value).to_f32();
        }
    }

    fn gather(
        &mut self,
        link: &mut impl Link,
        partner: usize,
        values: &mut [f32],
        own: Range<usize>,
        theirs: Range<usize>,
    ) -> Result<()> {
        let received = self.exchange(link, partner, &values[own], theirs.len())?;
        for (value, received) in values[theirs].iter_mut().zip(received) {
            *value = received.to_f32();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_all_ranks_cover_every_element_once() {
        for world in [1, 2, 4, 8] {
            for len in [0, 1, 5, 64, 1001] {
                let mut seen = vec![0; len];
                for rank in 0..world {
                    let share = (0..levels(world)).fold(0..len, |share, level| halves(share, rank, level).0);
                    seen[share].iter_mut().for_each(|count| *count += 1);
                }
                assert!(seen.iter().all(|&count| count == 1), "{world} ranks, {len} elements: {seen:?}");
            }
        }
    }
}
