//! All tests of the crate from outside, in one program that is quickly built.

mod augment;
mod common;
mod corpus;
#[cfg(feature = "download")]
mod download;
mod loader;
mod mix;
mod on_device;
mod operations;
mod own;
#[cfg(feature = "hub")]
mod parquet;
#[cfg(feature = "pictures")]
mod pictures;
mod python;
mod ranges;
mod sources;
mod synthetic;
