//! The loss along one or two directions (Li et al., <https://arxiv.org/abs/1712.09913>).
//!
//! The directions are random, and each filter of them has the length of the weights' own filter, so that networks whose
//! layers have other scales can be compared.
//!
//! ```
//! use candle_core::{Device, Var};
//! use wrn_sam_analysis::{Surface, landscape};
//!
//! let w = Var::new(&[[3f64, 4.], [0., 1.]], &Device::Cpu)?; // two filters, of length 5 and 1
//! let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, |_| w.sqr()?.sum_all())?;
//! let across = landscape::direction(&surface, 17, 0)?;
//! assert!((across.norm()? - 26f64.sqrt()).abs() < 1e-6);
//!
//! let at = landscape::grid(1.0, 5)?;
//! assert_eq!(at, [-1.0, -0.5, 0.0, 0.5, 1.0]);
//! let losses = landscape::line(&mut surface, &across, &at, |surface| surface.loss())?;
//! assert_eq!(losses[2], 26.0);
//! let up = landscape::direction(&surface, 17, 1)?;
//! let plane = landscape::plane(&mut surface, [&across, &up], [&at, &at], |surface| surface.loss())?;
//! assert_eq!(plane[2 * 5..3 * 5], losses);
//! # Ok::<(), wrn_sam_analysis::Error>(())
//! ```

use candle_core::{D, Tensor};
use wrn_sam_kernels::OutOfRange;

use crate::direction::Direction;
use crate::error::Result;
use crate::surface::Surface;

/// Added to a filter's norm before it divides.
const EPSILON: f64 = 1e-10;

/// The filter-normalized Gaussian direction of (`seed`, `draw`).
///
/// # Errors
/// candle's, where there is no memory.
pub fn direction(surface: &Surface<'_>, seed: u64, draw: u64) -> Result<Direction> {
    filter_normalized(surface, &surface.gaussian(seed, draw)?)
}

/// `d`, each filter of it with the length of the weights' filter: d_f ← d_f ‖w_f‖ / (‖d_f‖ + 1e-10). A filter is what one
/// output of a convolution or linear layer has: all elements with the same first index. Parameters with one axis, such as
/// biases and those of normalizations, become 0.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for a direction of another surface.
pub fn filter_normalized(surface: &Surface<'_>, d: &Direction) -> Result<Direction> {
    let weights = surface.parts(&surface.weights()?)?;
    let parts = surface.parts(d)?.into_iter().zip(weights).map(|(d, w)| {
        if w.rank() < 2 {
            return d.zeros_like();
        }
        let norms = |x: &Tensor| x.flatten_from(1)?.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
        let factors = (norms(&w)? / (norms(&d)? + EPSILON)?)?;
        d.flatten_from(1)?.broadcast_mul(&factors)?.reshape(w.shape())
    });
    surface.direction(&parts.collect::<candle_core::Result<Vec<_>>>()?)
}

/// `points` places from -`range` to `range`, at equal distances. An odd number has 0 in the middle.
///
/// # Errors
/// [`Error::OutOfRange`](crate::Error::OutOfRange) unless there are at least two and the range is a finite number above 0.
pub fn grid(range: f64, points: usize) -> Result<Vec<f64>> {
    OutOfRange::check("points", points, points >= 2, "at least 2")?;
    OutOfRange::check("range", range, range.is_finite() && range > 0.0, "a finite number above 0")?;
    let last = points as f64 - 1.0;
    Ok((0..points).map(|index| range * (2.0 * index as f64 - last) / last).collect())
}

/// What `measure` finds at w + a d for each a of `at`. It may call [`Surface::loss`], or measure something else of the
/// network, whose parameters are there.
///
/// # Errors
/// Those of `measure`.
pub fn line<T>(
    surface: &mut Surface<'_>,
    d: &Direction,
    at: &[f64],
    measure: impl FnMut(&mut Surface<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    plane(surface, [d, d], [at, &[0.0]], measure)
}

/// What `measure` finds at w + a d₁ + b d₂ for each a of the first list and each b of the second, row by row: the value at
/// (a, b) of the indices (i, j) is `values[j * a.len() + i]`.
///
/// # Errors
/// Those of `measure`.
pub fn plane<T>(
    surface: &mut Surface<'_>,
    d: [&Direction; 2],
    at: [&[f64]; 2],
    mut measure: impl FnMut(&mut Surface<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let points = at[0].len() * at[1].len();
    surface.measure("loss landscape", points, |surface| {
        let mut excursion = surface.excursion()?;
        let mut values = Vec::with_capacity(points);
        for &b in at[1] {
            for &a in at[0] {
                excursion.to(&[(a, d[0]), (b, d[1])])?;
                values.push(measure(excursion.surface)?);
                excursion.surface.done(values.len());
            }
        }
        Ok(values)
    })
}
