//! The crate's tests from outside, in one program.

mod corpus;
mod recipe;
mod step;
mod training;
