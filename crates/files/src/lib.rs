#![forbid(unsafe_code)]
#![deny(missing_docs)]
//! Files that are whole and have one owner.
//!
//! [`write()`] replaces a file atomically: a reader, or a machine that loses its power, finds the old file or the new one.
//! [`remove_leftovers`] removes what a killed process left behind. [`lock`] and [`try_lock`] give a file to one process
//! at a time.

mod error;
mod lock;
mod write;

pub use error::{Error, Result};
pub use lock::{lock, try_lock};
pub use write::{remove_leftovers, write};
