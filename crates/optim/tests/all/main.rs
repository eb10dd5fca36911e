//! The tests of this crate, in one program.

mod common;
mod pytorch;
mod refusals;
mod sam;
mod schedule;
mod state;
mod undo;
