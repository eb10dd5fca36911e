//! Train Wide ResNets with Sharpness-Aware Minimization on CIFAR-100, on [candle].
//!
//! This crate re-exports its parts, each of which is a crate that can be used separately. In the order of the data:
//!
//! ```text
//! bytes → records → augmented batch       data       Dataset, Augmentation, Loader
//!       → logits                          models     WideResNet, Mode, Parameters (on kernels)
//!       → loss                            losses     smooth_cross_entropy
//!       → gradients → w + e(w)            optim      Sam::begin, Step::climb
//!       → logits, loss, gradients there   models     Mode::TrainFrozenStatistics
//!       → w → base step                   optim      Perturbed::descend, Sgd, MultiStepLr
//!       → metrics → files                 train      step, evaluate, Recipe, Trainer
//! ```
//!
//! One SAM step on a batch:
//!
//! ```
//! use wrn_sam::candle::{DType, Device};
//! use wrn_sam::data::{Augmentation, Dataset, Loader, LoaderConfig, Statistics};
//! use wrn_sam::losses::smooth_cross_entropy;
//! use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
//! use wrn_sam::optim::{Pass, Sam, SamConfig, Sgd, SgdConfig};
//!
//! let cifar = Dataset::synthetic(17, 8, 0); // or Dataset::open(Variant::Cifar100, "data")?
//! let augmentation = Augmentation::reference(Statistics::from_split(&cifar.train)?);
//! let loader = Loader::new(&cifar.train, augmentation, LoaderConfig::default().with_batch_size(8))?;
//! let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
//! let config = WideResNetConfig::new(10, 1);
//! let model = WideResNet::new(&config, parameters.var_builder())?;
//! let sgd = Sgd::named(parameters.named_trainable(), SgdConfig::new(0.1).with_momentum(0.9))?;
//! let mut sam = Sam::new(sgd, SamConfig::sam(0.1))?.with_buffers(parameters.buffers())?;
//! for batch in loader.epoch(0) {
//!     let batch = batch?;
//!     let loss = sam.step(|pass| {
//!         let mode = if pass == Pass::First { Mode::Train } else { Mode::TrainFrozenStatistics };
//!         let logits = model.forward(&batch.images, mode)?;
//!         smooth_cross_entropy(&logits, &batch.labels, 0.1)?.mean_all()
//!     })?;
//!     assert!(loss.to_scalar::<f32>()? > 0.0);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The whole way, with checkpoints, curves and weights in a folder, is [`train::Trainer`]; from the command line it is
//! `cargo run --release --example cifar100` in the repository.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub use candle_core as candle;
pub use candle_nn;
pub use wrn_sam_analysis as analysis;
pub use wrn_sam_charts as charts;
pub use wrn_sam_collective as collective;
pub use wrn_sam_data as data;
pub use wrn_sam_files as files;
pub use wrn_sam_kernels as kernels;
pub use wrn_sam_losses as losses;
pub use wrn_sam_models as models;
pub use wrn_sam_optim as optim;
pub use wrn_sam_train as train;

#[cfg(doctest)]
mod pages;
