#![forbid(unsafe_code)]
#![deny(missing_docs)]
//! Figures as SVG: [`Chart`] draws lines and points over one axis, [`Contours`] a function of two variables.
//!
//! What comes out is a string that depends only on what went in. Colors are any that SVG takes; [`COLORS`] are some that
//! are told apart well.
//!
//! ```
//! use wrn_sam_charts::{COLORS, Chart, Series};
//!
//! let accuracy = |name, color, values: [f64; 3]| Series::over_epochs(name, color, values);
//! let chart = Chart::new("Top-1 accuracy", "epoch", "top-1 (%)")
//!     .with(accuracy("SGD", COLORS[0], [10.0, 14.0, 17.0]))
//!     .with(accuracy("SAM", COLORS[1], [9.0, 15.0, 19.0]));
//! assert_eq!(chart.to_svg().matches("<circle").count(), 6);
//! ```

mod axis;
mod contours;
mod lines;
mod page;

pub use contours::{Contours, Path, log_levels};
pub use lines::{Chart, Point, Series};
pub use page::escape;

/// Eight colors that are told apart well, also in print and by most people who see fewer colors.
pub const COLORS: [&str; 8] =
    ["#1f77b4", "#e8710a", "#2a9d3f", "#b2182b", "#7b4fa3", "#8c6239", "#d4569b", "#555555"];
