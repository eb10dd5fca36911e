//! Losses for candle classifiers: [`smooth_cross_entropy`] per sample, as a Kullback-Leibler divergence
//! or as cross entropy.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use wrn_sam_losses::{Convention, smooth_cross_entropy, smooth_cross_entropy_with};
//!
//! let logits = Tensor::new(&[[2f32, 0., 0., 0.], [0., 0., 0., 0.]], &Device::Cpu)?;
//! let labels = Tensor::new(&[0u32, 3], &Device::Cpu)?;
//!
//! let divergence = smooth_cross_entropy(&logits, &labels, 0.1)?; // one value per sample
//! assert_eq!(divergence.dims(), [2]);
//! let loss = divergence.mean_all()?; // what a training step differentiates
//!
//! let cross_entropy = smooth_cross_entropy_with(&logits, &labels, 0.1, Convention::CrossEntropy)?;
//! let uniform = cross_entropy.to_vec1::<f32>()?[1];
//! assert!((uniform - 4f32.ln()).abs() < 1e-6); // a uniform prediction costs ln K
//! # assert!(loss.to_scalar::<f32>()? > 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod error;
mod smooth_cross_entropy;

pub use error::{Error, Result};
pub use smooth_cross_entropy::{
    Convention, check_smoothing, smooth_cross_entropy, smooth_cross_entropy_with,
};
