//! Sharpness-Aware Minimization for candle: [`Sam`] around any candle optimizer, [`Sgd`] and [`AdamW`] with
//! PyTorch's arithmetic and a state that can be saved, and learning-rate schedules.
//!
//! A step of SAM (Foret et al., <https://arxiv.org/abs/2010.01412>) climbs from the weights w to the point
//! w + e where the loss nearby is about largest, takes the gradient there, returns to w, and lets the base
//! optimizer step along that gradient:
//!
//! ```
//! use candle_core::{Device, Var};
//! use candle_nn::Optimizer;
//! use wrn_sam_optim::{Sam, SamConfig, Schedule, Sgd, SgdConfig, StepLr};
//!
//! let w = Var::new(&[3f32, -2.], &Device::Cpu)?;
//! let loss = || w.sqr()?.sum_all(); // of the model on one batch
//!
//! let base = Sgd::new(vec![w.clone()], SgdConfig { momentum: 0.9, ..SgdConfig::default() })?;
//! let mut sam = Sam::new(vec![w.clone()], base, SamConfig { rho: 0.05, ..SamConfig::default() })?;
//! let schedule = StepLr::new(0.1, 20);
//!
//! for epoch in 0..20 {
//!     sam.set_learning_rate(schedule.at(epoch));
//!     let perturbed = sam.first_step(&loss()?.backward()?)?; // w -> w + e
//!     perturbed.second_step(&loss()?.backward()?)?; // w + e -> w -> base step
//! }
//! # assert!(loss()?.to_scalar::<f32>()? < 2.0);
//! # Ok::<(), wrn_sam_optim::Error>(())
//! ```
//!
//! [`Sam::first_step`] lends the perturbed weights out as a guard, [`Perturbed`]: only it can take the second
//! step, and dropping it, on the way out of an error for example, puts w back as it was. [`Sam::step`] runs
//! both passes of a closure itself.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod adamw;
mod error;
mod parameters;
mod sam;
mod schedule;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWConfig};
pub use error::{Error, Result};
pub use sam::{Pass, Perturbed, Sam, SamConfig};
pub use schedule::{CosineWithWarmup, Schedule, StepLr};
pub use sgd::{Sgd, SgdConfig};
pub use state::OptimizerState;
