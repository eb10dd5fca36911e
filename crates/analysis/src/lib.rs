#![forbid(unsafe_code)]
#![deny(missing_docs)]
//! How sharp a minimum is, of any candle network: what SAM makes small, measured.
//!
//! A [`Surface`] is the loss L as a function of named variables, w. On it:
//!
//! | measure | definition | passes |
//! |---|---|---|
//! | [`sharpness::one_step`] | L(w + e) - L(w) at the end of SAM's ascent | 2 |
//! | [`sharpness::of_batches`] | its mean over batches of m, each with its own ascent: m-sharpness | 2 |
//! | [`sharpness::worst_case`] | the largest rise that n steps of projected ascent find in a ball | n + 1 |
//! | [`sharpness::average`] | the mean rise at n random places | n + 1 |
//! | [`hessian::largest_eigenvalue`] | of the second derivatives, by Lanczos's iteration, with its residual | 2 each iteration |
//! | [`hessian::trace`] | of the second derivatives, by random signs, with its standard error | 2 each draw |
//! | [`landscape::line`], [`landscape::plane`] | anything at w + a d₁ + b d₂, along filter-normalized directions | 1 each place |
//!
//! Every measure is seeded, tells an observer how far it is ([`Surface::with_progress`]), and leaves the weights as they
//! were to the bit, also where it fails. All of them hold for a set of images: take the same for networks that are compared.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_core::Var;
//! use wrn_sam_analysis::{Ball, Surface, hessian, sharpness};
//!
//! // Two parameters, and batches of data: the squared error of x w + b.
//! let device = Device::Cpu;
//! let (w, b) = (Var::new(&[0.5f32], &device)?, Var::new(&[0.1f32], &device)?);
//! let batches = [(vec![1f32, 2.], vec![1f32, 1.5]), (vec![3f32, 4.], vec![2f32, 2.5])];
//! let loss = |batch: usize| {
//!     let (x, y) = &batches[batch];
//!     let (x, y) = (Tensor::new(x.as_slice(), &device)?, Tensor::new(y.as_slice(), &device)?);
//!     (x.broadcast_mul(&w)?.broadcast_add(&b)? - y)?.sqr()
//! };
//! let named = vec![("w".to_string(), w.clone()), ("b".to_string(), b.clone())];
//! let mut surface = Surface::new(named, batches.len(), loss)?;
//!
//! let one_step = sharpness::one_step(&mut surface, Ball::new(0.1))?;
//! let worst = sharpness::worst_case(&mut surface, Ball::new(0.1), 20)?;
//! assert!(0.0 < one_step && one_step <= 1.001 * worst);
//! // H = 2 [mean x², mean x; mean x, 1] = [15, 5; 5, 2], whose trace is 17.
//! let trace = hessian::trace(&mut surface, hessian::STEP, 100, 0)?;
//! assert!((trace.mean - 17.0).abs() < 4.0 * trace.standard_error);
//! # Ok::<(), wrn_sam_analysis::Error>(())
//! ```

mod direction;
mod error;
mod estimate;
pub mod hessian;
pub mod landscape;
pub mod sharpness;
mod surface;
mod symmetric;

pub use direction::Direction;
pub use error::{Error, Result};
pub use estimate::Estimate;
pub use sharpness::{Ball, Noise};
pub use surface::{Progress, Surface};
