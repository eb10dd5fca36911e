//! The pages for people: their code is compiled and run as documentation tests.
#![allow(missing_docs)]

#[doc = include_str!("../README.md")]
pub mod readme {}
#[doc = include_str!("../crates/analysis/README.md")]
pub mod analysis {}
#[doc = include_str!("../crates/charts/README.md")]
pub mod charts {}
#[doc = include_str!("../crates/data/README.md")]
pub mod data {}
#[doc = include_str!("../crates/files/README.md")]
pub mod files {}
#[doc = include_str!("../crates/kernels/README.md")]
pub mod kernels {}
#[doc = include_str!("../crates/losses/README.md")]
pub mod losses {}
#[doc = include_str!("../crates/models/README.md")]
pub mod models {}
#[doc = include_str!("../crates/optim/README.md")]
pub mod optim {}
#[doc = include_str!("../crates/train/README.md")]
pub mod train {}

#[doc = include_str!("../docs/book/src/family.md")]
pub mod family {}
#[doc = include_str!("../docs/book/src/own-data.md")]
pub mod own_data {}
#[doc = include_str!("../docs/book/src/own-network.md")]
pub mod own_network {}
#[doc = include_str!("../docs/book/src/sam.md")]
pub mod sam {}
#[doc = include_str!("../docs/book/src/sharpness.md")]
pub mod sharpness {}
