//! The crate's tests from outside, in one program.

mod corpus;
mod own_parts;
mod recipe;
mod step;
mod training;
