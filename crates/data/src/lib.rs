#![forbid(unsafe_code)]
#![deny(missing_docs)]
//! Images for candle, of CIFAR-100, CIFAR-10 or your own: from bytes to augmented batches, reproducibly.
//!
//! ```text
//! folder | .tar.gz | download | hub | pictures | memory | synthetic  ->  Dataset  ->  Split  ->  Loader  ->  Batch { images, labels, mixed }
//!                                                             |           |
//!                                                        Statistics  Augmentation, Mix
//! ```
//!
//! # Loading
//!
//! One call loads images from any of these sources, always as one type:
//!
//! | from | by |
//! |---|---|
//! | a folder of the binary or the Python version | [`Dataset::from_dir`] |
//! | the .tar.gz of either | [`Dataset::from_archive`] (in memory); [`Dataset::from_archive_reader`] |
//! | whichever of these a path leads to | [`Dataset::open`] |
//! | the official server | [`Dataset::download`](download); an interrupted download resumes |
//! | the Hugging Face hub, or its parquet files | `Dataset::from_hub`, `Dataset::from_parquet` (feature `hub`) |
//! | a folder of PNG and JPEG files by class | [`Dataset::from_pictures`] |
//! | images and labels in memory | [`Dataset::new`], [`Split::new`], [`Split::from_tensors`] |
//! | single files, or any reader | [`Split::read`], [`Split::from_binary`], [`Split::from_python`] |
//!
//! ```no_run
//! use wrn_sam_data::{Dataset, Variant};
//!
//! let cifar = Dataset::open(Variant::Cifar100, "data")?; // the folder, the folder around it, or the archive
//! assert_eq!((cifar.train.len(), cifar.test.len()), (50_000, 10_000));
//! println!("{}", cifar.source); // "CIFAR-100 from the folder data/cifar-100-binary (binary version)"
//! # Ok::<(), wrn_sam_data::Error>(())
//! ```
//!
//! Every size, label and archive entry is checked. A pickle of the Python version is decoded by a reader that runs
//! no code in it. [`Source`] says what was read, with the MD5 of each file, and whether it is the published data set.
//! An [`Error`] says which file and record is wrong, what was expected there, and what to do.
//!
//! ```
//! use wrn_sam_data::{Split, Variant};
//!
//! let records = [&[3, 42][..], &[128; 3072], &[3, 100], &[0; 3072]].concat(); // coarse label, label, image
//! let split = Split::from_binary(Variant::Cifar100, &records[..3074], "train.bin")?;
//! assert_eq!((split.labels(), split.coarse_labels()), (&[42][..], Some(&[3][..])));
//!
//! let error = Split::from_binary(Variant::Cifar100, &records[..], "train.bin").unwrap_err().to_string();
//! assert!(error.starts_with("train.bin: record 1 has the fine label 100 at offset 3075, 0 to 99 allowed"));
//! # Ok::<(), wrn_sam_data::Error>(())
//! ```
//!
//! [`Dataset::synthetic`] needs no file: it makes images in the same shape, which a network can learn, from a seed. The
//! rest of this page uses it and so runs offline.
//!
//! ```
//! use wrn_sam_data::Dataset;
//!
//! let cifar = Dataset::synthetic(17, 1000, 200);
//! let image: &[u8] = cifar.train.image(42); // 32 rows of 32 red bytes, then green, then blue
//! assert_eq!(cifar.train.label(42), 42);
//! assert_eq!(cifar.class_names.len(), 100);
//!
//! let few = cifar.train.truncated(300); // shares the bytes
//! assert_eq!(few.len(), 300);
//! # let _ = image;
//! ```
//!
//! # Statistics
//!
//! Networks train best on inputs around zero. [`Statistics::from_split`] computes the mean and unbiased standard deviation of
//! each channel of pixels in `[0, 1]`, exactly; both splits are normalized by the training split's.
//!
//! ```
//! # use wrn_sam_data::{Dataset, Statistics};
//! # let cifar = Dataset::synthetic(17, 1000, 200);
//! let statistics = Statistics::from_split(&cifar.train)?;
//! println!("red: {:.4} ± {:.4}", statistics.mean[0], statistics.std[0]);
//! # Ok::<(), wrn_sam_data::Error>(())
//! ```
//!
//! # Augmenting
//!
//! [`Augmentation::reference`] is the reference recipe's: crop with padding 4, flip, normalize, cutout 16x16.
//! Builder methods and public fields change it. [`Augmentation::none`] only normalizes, as evaluation does.
//!
//! ```
//! # use wrn_sam_data::{Dataset, Statistics};
//! # let statistics = Statistics::from_split(&Dataset::synthetic(17, 1000, 200).train)?;
//! use wrn_sam_data::{Augmentation, Cutout};
//!
//! let augmentation = Augmentation::reference(statistics).with_cutout(Cutout { size: 8, p: 1.0 });
//! augmentation.validate()?;
//! # Ok::<(), wrn_sam_data::Error>(())
//! ```
//!
//! A [`Policy`] draws further [`Operation`]s for each image, between flip and normalization: AutoAugment's for CIFAR,
//! RandAugment, or TrivialAugment (wide). Each operation equals torchvision's on a Pillow image bit for bit.
//! [`Augmentation::from_policy`] is a policy as its paper trains on CIFAR.
//!
//! ```
//! # use wrn_sam_data::{Dataset, Statistics};
//! # let train = Dataset::synthetic(17, 1000, 200).train;
//! # let statistics = Statistics::from_split(&train)?;
//! use rand::SeedableRng;
//! use wrn_sam_data::{Augmentation, IMAGE_BYTES, Policy};
//!
//! let augmentation = Augmentation::from_policy(Policy::AutoAugment, statistics);
//! let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(17);
//! let draw = augmentation.sample(32, &mut rng); // what happens to one image: plain data
//! assert!(draw.operations.len() <= 2); // such as [Rotate(-6.7), TranslateX(14.5)]
//!
//! let mut pixels = [0.0; IMAGE_BYTES]; // [32, 32, 3]
//! augmentation.apply(train.image(0), &draw, &mut pixels);
//! # Ok::<(), wrn_sam_data::Error>(())
//! ```
//!
//! # Batching
//!
//! A [`Loader`] makes the batches of any epoch on worker threads, a few ahead. They depend only on the seed and the
//! epoch's number, not on the number of threads. So a run can be repeated, and resumed in the middle of an epoch.
//!
//! ```
//! # use wrn_sam_data::{Augmentation, Dataset, Statistics};
//! # let cifar = Dataset::synthetic(17, 1000, 200);
//! # let statistics = Statistics::from_split(&cifar.train)?;
//! use wrn_sam_data::{Loader, LoaderConfig};
//!
//! let config = LoaderConfig::default();
//! let train = Loader::new(&cifar.train, Augmentation::reference(statistics), config)?;
//! for epoch in 0..2 {
//!     for batch in train.epoch(epoch) {
//!         let batch = batch?;
//!         assert_eq!(batch.images.dims()[1..], [3, 32, 32]); // f32, normalized
//!         assert_eq!(batch.labels.dims()[0], batch.images.dims()[0]); // u32; 104 in the last batch
//!     }
//! }
//!
//! let config = config.with_batch_size(100).with_shuffle(false);
//! let test = Loader::new(&cifar.test, Augmentation::none(statistics), config)?;
//! assert_eq!(test.batches_per_epoch(), 2);
//! # Ok::<(), wrn_sam_data::Error>(())
//! ```
//!
//! In memory a batch is `[N, 32, 32, 3]`, and `images` is a view of it. Channels-last operations read the memory in
//! order; for the rest of candle the view is an ordinary tensor (`contiguous()` also moves the channels in memory). A
//! batch owns its memory, as candle's tensors do.
//!
//! A [`Mix`] mixes the images of each batch with each other, by mixup or CutMix. The batch then has a second set of
//! labels, and its loss is the weighted sum of both:
//!
//! ```
//! # use wrn_sam_data::{Augmentation, Dataset, Loader, LoaderConfig, Statistics};
//! # let cifar = Dataset::synthetic(17, 300, 0);
//! # let statistics = Statistics::from_split(&cifar.train)?;
//! use wrn_sam_data::Mix;
//!
//! let loader = Loader::new(&cifar.train, Augmentation::basic(statistics), LoaderConfig::default())?;
//! for batch in loader.with_mix(Mix::mixup(0.2))?.epoch(0) {
//!     let batch = batch?;
//!     if let Some(mixed) = &batch.mixed {
//!         // loss = lambda * loss(batch.labels) + (1 - lambda) * loss(mixed.labels)
//!         assert!(mixed.labels.dims() == batch.labels.dims() && mixed.lambda <= 1.0);
//!     }
//! }
//! # Ok::<(), wrn_sam_data::Error>(())
//! ```
//!
//! [`Loader::with_device`] gives batches on an NVIDIA GPU. A kernel makes them there if it can; otherwise threads of the
//! CPU do. [`Loader::maker`] says which.
//!
//! # Features
//!
//! - `download` (default): [`Dataset::download`](download), over HTTPS.
//! - `pictures` (default): [`pictures`], PNG and JPEG files.
//! - `hub`: `Dataset::from_hub` and `from_parquet`, and `candle_datasets::vision::Dataset::try_from(&cifar)` for
//!   programs written against that crate. It adds a large tree of dependencies.

mod augment;
mod batch;
mod binary;
#[cfg(feature = "hub")]
mod candle_datasets;
mod causes;
mod checksum;
mod cifar;
mod class_names;
mod dataset;
mod error;
mod loader;
mod loader_config;
mod on_device;
mod pickle;
#[cfg(feature = "pictures")]
pub mod pictures;
mod prefetch;
mod python;
mod random;
mod source;
mod split;
mod statistics;

pub use augment::{
    Augmentation, AugmentationDraw, Cutout, Mix, MixDraw, Normalize, Operation, Policy, RandomCrop,
    RandomHorizontalFlip,
};
pub use batch::{Batch, Mixed};
pub use causes::with_causes;
pub use checksum::{FileChecksum, hex};
pub use cifar::{
    IMAGE_BYTES, IMAGE_CHANNELS, IMAGE_SIZE, MAX_IMAGE_SIZE, TEST_IMAGES, TRAIN_IMAGES, Variant,
};
pub use class_names::{CIFAR10_NAMES, COARSE_NAMES, FINE_NAMES};
pub use dataset::Dataset;
pub use error::{Error, Result};
pub use loader::{Batches, Loader, Maker, Share};
pub use loader_config::LoaderConfig;
#[cfg(feature = "download")]
pub use source::download;
pub use source::{Format, Origin, Source};
pub use split::Split;
pub use statistics::Statistics;
