#![forbid(unsafe_code)]
#![deny(missing_docs)]
//! Wide ResNets for [candle](candle_core): seeded, exact to PyTorch's, and with its state dicts.
//!
//! - [`WideResNet`] is the network that [`WideResNetConfig`] describes. [`BasicUnit`], [`DownsampleUnit`],
//!   [`BatchNorm`] and [`Conv2d`] are its parts, for networks of your own.
//! - [`Mode`] is an argument of every `forward`: it says whether batch statistics are used, and whether the running
//!   ones move. SAM's second pass uses [`Mode::TrainFrozenStatistics`].
//! - [`Parameters`] holds the values by name: what to train, what to save.
//! - [`summary`] lists a network's layers and what a batch costs.
//! - [`WideResNet::save_onnx`] and [`save_pytorch`] write it for other programs.
//!
//! # Build, run, save
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use wrn_sam_models::{Mode, Parameters, WideResNet, WideResNetConfig};
//!
//! let device = Device::Cpu;
//! let config = WideResNetConfig::new(10, 1).with_classes(10);
//!
//! // A model takes its values from a builder. This one draws them from seed 17, the same on every machine.
//! let parameters = Parameters::new(17, DType::F32, &device);
//! let model = WideResNet::new(&config, parameters.var_builder())?;
//! assert_eq!(parameters.parameter_count(), 78_106);
//!
//! // Training: batch statistics, which move the running ones. An optimizer takes `parameters.trainable()`.
//! let images = Tensor::randn(0f32, 1.0, (2, 3, 32, 32), &device)?;
//! let logits = model.forward(&images, Mode::Train)?;
//! assert_eq!(logits.dims(), [2, 10]);
//! let gradients = logits.sum_all()?.backward()?;
//! assert!(parameters.trainable().iter().all(|var| gradients.get(var).is_some()));
//!
//! // Saved under PyTorch's names, buffers included, and loaded into a model of another seed.
//! let folder = tempfile::tempdir().expect("a temporary folder");
//! let path = folder.path().join("model.safetensors");
//! parameters.save(&path)?;
//!
//! let config = WideResNetConfig::from_state_dict(&path)?;
//! let loaded = Parameters::new(0, DType::F32, &device);
//! let copy = WideResNet::new(&config, loaded.var_builder())?;
//! loaded.load(&path)?;
//! let (a, b) = (model.forward(&images, Mode::Eval)?, copy.forward(&images, Mode::Eval)?);
//! assert_eq!(a.to_vec2::<f32>()?, b.to_vec2::<f32>()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch_norm;
mod compute;
mod config;
mod conv2d;
mod description;
mod dropout;
mod error;
mod export;
mod init;
mod linear;
mod mode;
mod names;
mod parameters;
mod pass;
mod plain;
mod random;
mod recording;
mod runner;
mod state_dict;
mod summary;
mod tape;
mod unit;
mod weights;
mod wide_resnet;

pub use batch_norm::BatchNorm;
pub use config::WideResNetConfig;
pub use conv2d::Conv2d;
pub use error::{Error, Mismatch, Misshapen, Result};
pub use export::save_pytorch;
pub use mode::Mode;
pub use parameters::{Kind, Parameters};
pub use state_dict::{read_metadata, save_state_dict};
pub use summary::{LayerSummary, Summary, summary};
pub use unit::{BasicUnit, DownsampleUnit};
pub use wide_resnet::WideResNet;
pub use wrn_sam_kernels::Precision;
pub use wrn_sam_kernels::conv2d::Conv2dConfig;
