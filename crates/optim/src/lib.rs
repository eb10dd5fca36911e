//! Sharpness-Aware Minimization and its family for candle: [`Sam`] around [`Sgd`] or [`AdamW`], with PyTorch's arithmetic and a state
//! that can be saved, or around any other candle optimizer; and learning-rate schedules.
//!
//! A step of SAM (Foret et al., <https://arxiv.org/abs/2010.01412>) climbs from the weights w to the point
//! w + e where the loss nearby is about largest, takes the gradient there, returns to w, and lets the base
//! optimizer step along that gradient:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Init, VarBuilder, VarMap};
//! use wrn_sam_optim::{MultiStepLr, Sam, SamConfig, Schedule, Sgd, SgdConfig, named_vars};
//!
//! let variables = VarMap::new();
//! let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let w = builder.get_with_hints(2, "w", Init::Const(3.0))?;
//!
//! let base = Sgd::named(named_vars(&variables), SgdConfig::new(0.1).with_momentum(0.9))?;
//! let mut sam = Sam::new(base, SamConfig::sam(0.05))?;
//! let schedule = MultiStepLr::new(0.1, [10, 15], 0.2);
//! for epoch in 0..20 {
//!     sam.set_learning_rate(schedule.at(epoch));
//!     // Called once at w and once at w + e.
//!     let loss = sam.step(|_pass| w.sqr()?.sum_all())?;
//! #   assert!(loss.to_scalar::<f32>()? <= 18.0);
//! }
//! # Ok::<(), wrn_sam_optim::Error>(())
//! ```
//!
//! Where a closure does not fit, [`Sam::begin`] gives the same step by hand: a guard, [`Step`], whose
//! [`climb`](Step::climb) gives the guard of the second pass, [`Perturbed`], whose [`descend`](Perturbed::descend) takes
//! the step. [`SamConfig`] chooses the member of the family: SAM, ASAM, F-SAM, VaSSO, GSAM, WSAM, LookSAM, MSAM and others, or a mix
//! of them. Dropping either, for example on the way out of an error, puts everything back to the bit.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod adamw;
mod average;
mod error;
mod groups;
mod parameters;
mod sam;
mod schedule;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWConfig};
pub use average::WeightAverage;
pub use error::{Error, Result};
pub use groups::Group;
pub use parameters::{Variables, named_vars};
pub use sam::{Along, AscentOver, Climb, Descent, Part, Pass, Perturbed, Sam, SamConfig, Scale, Step, When};
pub use schedule::{CosineWithWarmup, MultiStepLr, Proportional, Schedule};
pub use sgd::{Sgd, SgdConfig};
pub use state::OptimizerState;
