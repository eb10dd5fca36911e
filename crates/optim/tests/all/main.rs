//! The tests of this crate, in one program.

mod common;
mod family;
mod pytorch;
mod refusals;
mod sam;
mod schedule;
mod state;
mod undo;
