//! All tests of the crate from outside, in one program that is quickly built.

mod augment;
mod common;
mod corpus;
mod device_loader;
#[cfg(feature = "download")]
mod download;
mod loader;
mod mix;
mod operations;
#[cfg(feature = "hub")]
mod parquet;
mod python;
mod sources;
mod synthetic;
