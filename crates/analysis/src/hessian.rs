//! The loss's second derivatives, by differences of gradients.
//!
//! H v = ‖v‖ (g(w + h v/‖v‖) - g(w - h v/‖v‖)) / 2h for a small step h: two gradients, in any candle program, with whatever
//! backward pass it has.
//!
//! A network with ReLUs is piecewise smooth. A ReLU whose input changes sign within ±h adds a curvature that a second
//! derivative by automatic differentiation does not see, because it is taken at one point: so these values are those of the
//! loss at the scale h, and depend on it and on the number of images. State both with every result. For a network without
//! kinks they tend to the second derivatives as h does to 0.
//!
//! ```
//! use candle_core::{Device, Var};
//! use wrn_sam_analysis::{Surface, hessian};
//!
//! let w = Var::new(&[1f64, 1., 1.], &Device::Cpu)?;
//! let curvature = Var::new(&[4f64, 2., 1.], &Device::Cpu)?.as_detached_tensor();
//! // L = (4 w1² + 2 w2² + w3²) / 2: H is diagonal.
//! let loss = |_| (w.sqr()? * &curvature)?.sum_all()? * 0.5;
//! let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, loss)?;
//! let top = hessian::largest_eigenvalue(&mut surface, hessian::Lanczos::default())?;
//! assert!((top.value - 4.0).abs() < 1e-6 && top.residual < 1e-6);
//! let trace = hessian::trace(&mut surface, hessian::STEP, 2, 0)?;
//! assert!((trace.mean - 7.0).abs() < 1e-6);
//! # Ok::<(), wrn_sam_analysis::Error>(())
//! ```

use wrn_sam_kernels::OutOfRange;

use crate::direction::Direction;
use crate::error::Result;
use crate::estimate::Estimate;
use crate::surface::{Excursion, Surface};
use crate::symmetric::Symmetric;

/// The usual step h, which is a small part of the norm of a network's weights.
pub const STEP: f64 = 1e-2;

/// H v by central differences with the step `h`: a number above 0. Two passes.
///
/// # Errors
/// [`Error::OutOfRange`](crate::Error::OutOfRange); [`Error::NotFinite`](crate::Error::NotFinite); the loss's.
pub fn product(surface: &mut Surface<'_>, v: &Direction, h: f64) -> Result<Direction> {
    check_step(h)?;
    surface.measure("H v", 2, |surface| times(&mut surface.excursion()?, v, h))
}

/// The mean of zᵀ H z over `draws` vectors z of random signs, whose expectation is the trace of H (Hutchinson 1990). At
/// least two draws, for the standard error. Two passes for each draw.
///
/// # Errors
/// As [`product`].
pub fn trace(surface: &mut Surface<'_>, h: f64, draws: usize, seed: u64) -> Result<Estimate> {
    check_step(h)?;
    Estimate::check(draws)?;
    surface.measure("trace of H", 2 * draws, |surface| {
        let mut excursion = surface.excursion()?;
        let mut values = Vec::new();
        for draw in 0..draws as u64 {
            let z = excursion.surface.signs(seed, draw)?;
            values.push(z.dot(&times(&mut excursion, &z, h)?)?);
        }
        Ok(Estimate::of(&values))
    })
}

/// How [`largest_eigenvalue`] looks.
///
/// It keeps a vector of n numbers for each iteration.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Lanczos {
    /// The most iterations, each of two passes: at least 1. Default 30.
    pub iterations: usize,
    /// Ends sooner where the residual that the iteration expects is at most this share of the eigenvalue: at least 0.
    /// Default 1e-3.
    pub tolerance: f64,
    /// The step h of the differences. Default [`STEP`].
    pub h: f64,
    /// What the first vector is drawn from. Default 0.
    pub seed: u64,
}

impl Default for Lanczos {
    fn default() -> Self {
        Self { iterations: 30, tolerance: 1e-3, h: STEP, seed: 0 }
    }
}

impl Lanczos {
    /// With at most so many [`iterations`](Self::iterations).
    #[must_use]
    pub fn with_iterations(self, iterations: usize) -> Self {
        Self { iterations, ..self }
    }

    /// With this [`tolerance`](Self::tolerance).
    #[must_use]
    pub fn with_tolerance(self, tolerance: f64) -> Self {
        Self { tolerance, ..self }
    }

    /// With this step [`h`](Self::h).
    #[must_use]
    pub fn with_h(self, h: f64) -> Self {
        Self { h, ..self }
    }

    /// From this [`seed`](Self::seed).
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// What [`largest_eigenvalue`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Eigenvalue {
    /// The largest eigenvalue λ of H. Not the largest |λ|: H of a network has negative ones too.
    pub value: f64,
    /// ‖H x - λ x‖₂ for the unit vector x that was found: how far λ may be from an eigenvalue.
    pub residual: f64,
    /// x.
    pub vector: Direction,
    /// The iterations taken.
    pub iterations: usize,
    /// All eigenvalues of the iteration's matrix, the largest first: the ends of this list approximate the ends of the
    /// spectrum of H.
    pub ritz_values: Vec<f64>,
}

/// The largest eigenvalue of H by Lanczos's iteration with full re-orthogonalization, from a seeded random vector: an
/// orthonormal basis Q of H's powers, in which Qᵀ H Q is tridiagonal (Golub & Van Loan, Matrix Computations, section 10.1).
///
/// The residual is computed with another product by H, rather than taken from the iteration, which believes that H is
/// exact and symmetric.
///
/// # Errors
/// As [`product`]; `iterations` is at least 1 and `tolerance` at least 0.
pub fn largest_eigenvalue(surface: &mut Surface<'_>, lanczos: Lanczos) -> Result<Eigenvalue> {
    let Lanczos { iterations, tolerance, h, seed } = lanczos;
    check_step(h)?;
    OutOfRange::check("iterations", iterations, iterations > 0, "at least 1")?;
    OutOfRange::check("tolerance", tolerance, tolerance >= 0.0, "a number of at least 0")?;
    let iterations = iterations.min(surface.parameters());
    surface.measure("largest eigenvalue of H", 2 * (iterations + 1), |surface| {
        let first = surface.gaussian(seed, 0)?;
        let mut basis = vec![first.scaled(1.0 / first.norm()?)?];
        let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
        let mut excursion = surface.excursion()?;
        loop {
            let last = &basis[basis.len() - 1];
            let mut next = times(&mut excursion, last, h)?;
            diagonal.push(last.dot(&next)?);
            // Twice, for what the first time leaves through rounding.
            for _ in 0..2 {
                for q in &basis {
                    next = next.plus(-q.dot(&next)?, q)?;
                }
            }
            let norm = next.norm()?;
            let mut top = Symmetric::tridiagonal(&diagonal, &beside).eigen();
            let (value, vector) = top.swap_remove(0);
            let expected = norm * vector[vector.len() - 1].abs();
            let exhausted = norm <= f64::EPSILON * value.abs();
            if basis.len() == iterations || exhausted || expected <= tolerance * value.abs() {
                let mut x = basis[0].scaled(vector[0])?;
                for (q, &share) in basis.iter().zip(&vector).skip(1) {
                    x = x.plus(share, q)?;
                }
                let x = x.scaled(1.0 / x.norm()?)?;
                let residual = times(&mut excursion, &x, h)?.plus(-value, &x)?.norm()?;
                let mut ritz_values: Vec<f64> =
                    std::iter::once(value).chain(top.into_iter().map(|(value, _)| value)).collect();
                ritz_values.sort_by(|a, b| b.total_cmp(a));
                return Ok(Eigenvalue { value, residual, vector: x, iterations: basis.len(), ritz_values });
            }
            basis.push(next.scaled(1.0 / norm)?);
            beside.push(norm);
        }
    })
}

fn check_step(h: f64) -> Result<()> {
    Ok(OutOfRange::check("h", h, h.is_finite() && h > 0.0, "a finite number above 0")?)
}

/// H v from an excursion, which it leaves at w + h v/‖v‖ or w - h v/‖v‖. Of v = 0 it is 0.
fn times(excursion: &mut Excursion<'_, '_>, v: &Direction, h: f64) -> Result<Direction> {
    let norm = v.norm()?;
    if norm == 0.0 {
        return Ok(v.clone());
    }
    excursion.to(&[(h / norm, v)])?;
    let (_, ahead) = excursion.surface.gradient()?;
    excursion.to(&[(-h / norm, v)])?;
    let (_, behind) = excursion.surface.gradient()?;
    ahead.plus(-1.0, &behind)?.scaled(norm / (2.0 * h))
}
