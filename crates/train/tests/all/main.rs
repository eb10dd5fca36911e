//! The crate's tests from outside, in one program.

mod corpus;
mod divergence;
mod logs;
mod methods;
mod own_parts;
mod recipe;
mod resuming;
mod step;
mod support;
mod training;
mod validation;
