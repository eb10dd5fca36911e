//! What a network answers on each image of a split.

use candle_core::{D, Tensor};
use candle_nn::ops::softmax;

use crate::error::Result;

/// The likeliest class of each image, and its probability.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) classes: Vec<u32>,
    pub(crate) probabilities: Vec<f32>,
}

impl Answers {
    /// Adds a batch's logits `[N, classes]`.
    pub(crate) fn add(&mut self, logits: &Tensor) -> Result<()> {
        self.classes.extend(logits.argmax(D::Minus1)?.to_vec1::<u32>()?);
        self.probabilities.extend(softmax(logits, D::Minus1)?.max(D::Minus1)?.to_vec1::<f32>()?);
        Ok(())
    }

    /// The images that were answered wrongly, the surest answers first.
    pub(crate) fn wrong(&self, labels: &[u8]) -> Vec<usize> {
        let is_wrong = |&image: &usize| self.classes[image] != u32::from(labels[image]);
        let mut wrong: Vec<usize> = (0..self.classes.len()).filter(is_wrong).collect();
        wrong.sort_by(|&one, &other| self.probabilities[other].total_cmp(&self.probabilities[one]));
        wrong
    }
}
