//! What the ranks of a run tell each other, apart from the sums of a step.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wrn_sam_collective::{Collective, Solo};
use wrn_sam_kernels::OutOfRange;

use crate::checkpoint::{self, Newest};
use crate::error::{Error, Result};
use crate::fingerprint;
use crate::recipe::Recipe;
use crate::tally::Tally;

/// The ranks of a run. Every method but the first three is called by all of them at the same point.
#[derive(Debug, Clone)]
pub(crate) struct Together(Arc<dyn Collective>);

impl Default for Together {
    fn default() -> Self {
        Self(Arc::new(Solo))
    }
}

impl Together {
    pub(crate) fn new(ranks: Arc<dyn Collective>) -> Self {
        Self(ranks)
    }

    pub(crate) fn ranks(&self) -> &Arc<dyn Collective> {
        &self.0
    }

    /// Whether this rank writes the run's files.
    pub(crate) fn writes(&self) -> bool {
        self.0.rank() == 0
    }

    fn are_several(&self) -> bool {
        self.0.world() > 1
    }

    /// Tells the others of an error that ends this rank's run.
    pub(crate) fn fail<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.0.fail(&error.to_string());
        }
        outcome
    }

    /// As many micro-batches as a new run of this recipe has: at least one for each rank.
    pub(crate) fn settle(&self, recipe: &mut Recipe) {
        if recipe.micro_batches == 1 {
            recipe.micro_batches = self.0.world();
        }
    }

    /// Checks that all ranks have one program, recipe and images, whose fingerprint is `images`.
    ///
    /// # Errors
    /// [`Error::OtherRank`] names the first rank that has others than rank 0, and the first thing that differs.
    pub(crate) fn check_alike(&self, recipe: &Recipe, images: &str) -> Result<()> {
        if !self.are_several() {
            return Ok(());
        }
        let world = self.0.world();
        let divisible = recipe.micro_batches.is_multiple_of(world);
        OutOfRange::check(
            "micro_batches",
            recipe.micro_batches,
            divisible,
            "a multiple of the number of ranks",
        )?;
        let mut own = vec![
            format!("version {}", env!("CARGO_PKG_VERSION")),
            format!("images with the fingerprint {images}"),
            format!("checkpoint_every = {}", recipe.checkpoint_every),
        ];
        own.extend(recipe.results_only()?.iter().map(|(key, value)| format!("{key} = {value}")));
        let all = self.0.all_gather(own.join("\n").into_bytes())?;
        let all: Vec<_> = all.iter().map(|theirs| String::from_utf8_lossy(theirs)).collect();
        for (rank, theirs) in all.iter().enumerate() {
            let differs = all[0].lines().zip(theirs.lines()).find(|(first, other)| first != other);
            if let Some((first, other)) = differs {
                return Err(Error::OtherRank { rank, found: other.into(), expected: first.into() });
            }
        }
        Ok(())
    }

    /// The checkpoint that rank 0 found, on every rank.
    pub(crate) fn share_newest(&self, newest: Option<Newest>) -> Result<Option<Newest>> {
        if !self.are_several() {
            return Ok(newest);
        }
        let mut told = Vec::new();
        if let Some(Newest { path, .. }) = &newest {
            let name = path.to_string_lossy();
            told.extend((name.len() as u64).to_le_bytes());
            told.extend(name.as_bytes());
            told.extend(std::fs::read(path).map_err(Error::io("read", path))?);
        }
        let told = self.0.broadcast(told, 0)?;
        if self.writes() {
            return Ok(newest);
        }
        let Some((len, rest)) = told.split_first_chunk() else { return Ok(None) };
        let (name, bytes) = rest.split_at(rest.len().min(u64::from_le_bytes(*len) as usize));
        let path = PathBuf::from(String::from_utf8_lossy(name).into_owned());
        let checkpoint = checkpoint::parse(&path, bytes)?;
        Ok(Some(Newest { path, checkpoint, skipped: Vec::new() }))
    }

    /// What rank 0 has.
    pub(crate) fn of_first<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T> {
        if !self.are_several() {
            return Ok(own);
        }
        let unreadable = |error: serde_json::Error| Error::Io {
            action: "understand",
            path: "what rank 0 says".into(),
            source: error.into(),
        };
        let told = self.0.broadcast(serde_json::to_vec(&own).map_err(unreadable)?, 0)?;
        serde_json::from_slice(&told).map_err(unreadable)
    }

    /// Whether any rank was asked to stop, and to write a checkpoint: so all do it after the same step.
    pub(crate) fn requests(&self, stop: bool, checkpoint: bool) -> Result<(bool, bool)> {
        if !self.are_several() {
            return Ok((stop, checkpoint));
        }
        let all = self.0.all_gather(vec![stop.into(), checkpoint.into()])?;
        let any = |at: usize| all.iter().any(|own| own.get(at) == Some(&1));
        Ok((any(0), any(1)))
    }

    /// What every rank counted, one tally for each of its micro-batches or batches, in the order of the ranks.
    pub(crate) fn tallies(&self, own: Vec<Tally>) -> Result<Vec<Tally>> {
        if !self.are_several() {
            return Ok(own);
        }
        let told = own.iter().flat_map(|tally| tally.to_bytes()).collect();
        let all = self.0.all_gather(told)?;
        Ok(all.iter().flat_map(|told| told.as_chunks().0).map(Tally::from_bytes).collect())
    }

    /// Checks that the images which the ranks took in an epoch are `expected`: each once.
    pub(crate) fn check_images(&self, epoch: usize, own: u64, expected: u64) -> Result<()> {
        let all = self.0.all_gather(own.to_le_bytes().to_vec())?;
        let number = |told: &Vec<u8>| told.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let found = all.iter().map(number).fold(0, u64::wrapping_add);
        if found == expected { Ok(()) } else { Err(Error::ImagesNotOnce { epoch, found, expected }) }
    }

    /// Checks that all ranks have the same weights, buffers and optimizer state.
    ///
    /// # Errors
    /// [`Error::Drifted`] names the ranks that have others than most have.
    pub(crate) fn check_replicas(&self, step: &str, parts: &[(&str, Vec<(String, Tensor)>)]) -> Result<()> {
        if !self.are_several() {
            return Ok(());
        }
        let all = self.0.all_gather(fingerprint::of_named(step, parts)?.into_bytes())?;
        let mut counts = HashMap::<&[u8], usize>::new();
        all.iter().for_each(|own| *counts.entry(own).or_default() += 1);
        // Of equal counts, what rank 0 has.
        let most = counts.values().copied().max().unwrap_or(0);
        let usual = all.iter().find(|own| counts[own.as_slice()] == most);
        let drifted: Vec<usize> = (0..all.len()).filter(|&rank| Some(&all[rank]) != usual).collect();
        if drifted.is_empty() { Ok(()) } else { Err(Error::Drifted { ranks: drifted, step: step.into() }) }
    }

    /// Returns when all ranks have come here: rank 0 has then written what it writes.
    pub(crate) fn meet(&self) -> Result<()> {
        Ok(self.0.barrier()?)
    }
}
