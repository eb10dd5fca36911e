//! How much the loss rises around the weights.
//!
//! Every measure looks at δ = T u with ‖u‖₂ ≤ ρ, where T is 1, or |w| where adaptive: see [`Ball`].
//!
//! ```
//! use candle_core::{Device, Var};
//! use wrn_sam_analysis::{Ball, Surface, sharpness};
//!
//! let w = Var::new(&[3f64, 4.], &Device::Cpu)?;
//! let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, |_| w.sqr()?.sum_all())?;
//! // L = ‖w‖² rises from 5² to 5.5² along its gradient, which is the worst direction.
//! let rise = sharpness::one_step(&mut surface, Ball::new(0.5))?;
//! assert!((rise - 5.25).abs() < 1e-9);
//! let worst = sharpness::worst_case(&mut surface, Ball::new(0.5), 10)?;
//! assert!((worst - 5.25).abs() < 1e-9);
//! # Ok::<(), wrn_sam_analysis::Error>(())
//! ```

use wrn_sam_kernels::OutOfRange;

use crate::direction::Direction;
use crate::error::{Result, finite};
use crate::estimate::Estimate;
use crate::surface::Surface;

/// Added to a norm before it divides, as SAM does.
const EPSILON: f64 = 1e-12;

/// A ball around the weights: δ = T u with ‖u‖₂ ≤ ρ.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ball {
    /// The radius ρ: a finite number of at least 0.
    pub rho: f64,
    /// Whether T = |w|, so that the radius is in units of each weight's size (Kwon et al.,
    /// <https://arxiv.org/abs/2102.11600>); otherwise T = 1.
    pub adaptive: bool,
}

impl Ball {
    /// The ball ‖δ‖₂ ≤ `rho`.
    pub fn new(rho: f64) -> Self {
        Self { rho, adaptive: false }
    }

    /// With or without [`adaptive`](Self::adaptive).
    #[must_use]
    pub fn with_adaptive(self, adaptive: bool) -> Self {
        Self { adaptive, ..self }
    }

    fn check(&self) -> Result<()> {
        let valid = self.rho.is_finite() && self.rho >= 0.0;
        Ok(OutOfRange::check("rho", self.rho, valid, "a finite number of at least 0")?)
    }
}

/// T, where it is not 1.
struct Scale(Option<Direction>);

impl Scale {
    fn new(adaptive: bool, surface: &Surface<'_>) -> Result<Self> {
        Ok(Self(if adaptive { Some(surface.weights()?.abs()?) } else { None }))
    }

    /// T x.
    fn of(&self, x: &Direction) -> Result<Direction> {
        self.0.as_ref().map_or_else(|| Ok(x.clone()), |scale| scale.times(x))
    }

    /// u = `length` · T g / (‖T g‖₂ + 1e-12).
    fn step(&self, gradient: &Direction, length: f64) -> Result<Direction> {
        let scaled = self.of(gradient)?;
        scaled.scaled(length / (scaled.norm()? + EPSILON))
    }
}

/// Random places around the weights: δ = σ T z, where z are independent normal numbers with mean 0 and deviation 1.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Noise {
    /// The deviation σ of each number: finite and at least 0. Of n parameters, ‖σ z‖₂ is about σ √n.
    pub sigma: f64,
    /// Whether T = |w|, as in [`Ball`].
    pub adaptive: bool,
    /// How many places: at least 2. Default 20.
    pub draws: usize,
    /// What they are drawn from. Default 0.
    pub seed: u64,
}

impl Noise {
    /// 20 places with the deviation `sigma`, from seed 0.
    pub fn new(sigma: f64) -> Self {
        Self { sigma, adaptive: false, draws: 20, seed: 0 }
    }

    /// With or without [`adaptive`](Self::adaptive).
    #[must_use]
    pub fn with_adaptive(self, adaptive: bool) -> Self {
        Self { adaptive, ..self }
    }

    /// With so many [`draws`](Self::draws).
    #[must_use]
    pub fn with_draws(self, draws: usize) -> Self {
        Self { draws, ..self }
    }

    /// From this [`seed`](Self::seed).
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// The rise that SAM's ascent meets: L(w + e) - L(w), with e = ρ T² g / (‖T g‖₂ + 1e-12) and g = ∇L(w)
/// (Foret et al., <https://arxiv.org/abs/2010.01412>). Two passes.
///
/// # Errors
/// [`Error::OutOfRange`](crate::Error::OutOfRange); the loss's; [`Error::NotFinite`](crate::Error::NotFinite).
pub fn one_step(surface: &mut Surface<'_>, ball: Ball) -> Result<f64> {
    ball.check()?;
    surface.measure("one-step sharpness", 2, |surface| {
        let scale = Scale::new(ball.adaptive, surface)?;
        let (loss, gradient) = surface.gradient()?;
        let e = scale.of(&scale.step(&gradient, ball.rho)?)?;
        let mut excursion = surface.excursion()?;
        excursion.to(&[(1.0, &e)])?;
        rise(excursion.surface.loss()?, loss)
    })
}

/// m-sharpness: [`one_step`] of each batch's own loss along its own gradient, averaged over the batches by their images.
/// With batches of m images it is what SAM on batches of m makes small (Foret et al., section 4.1). Two passes.
///
/// # Errors
/// As [`one_step`].
pub fn of_batches(surface: &mut Surface<'_>, ball: Ball) -> Result<f64> {
    ball.check()?;
    surface.measure("m-sharpness", 2, |surface| {
        let scale = Scale::new(ball.adaptive, surface)?;
        let (batches, mut excursion) = (surface.batches(), surface.excursion()?);
        let (mut sum, mut all) = (0.0, 0);
        for batch in 0..batches {
            excursion.home()?;
            let (loss, images, gradient) = excursion.surface.gradient_of(batch)?;
            let e = scale.of(&scale.step(&gradient, ball.rho)?)?;
            excursion.to(&[(1.0, &e)])?;
            sum += rise(excursion.surface.loss_of(batch)?, loss)? * images as f64;
            all += images;
        }
        Ok(sum / all as f64)
    })
}

/// The largest rise that projected ascent finds in the ball: with u = 0 first and s = 2.5 ρ / n, `steps` = n times
///
/// u ← Π(u + s T g / (‖T g‖₂ + 1e-12)), g = ∇L(w + T u),
///
/// where Π shortens to length ρ; then the largest L(w + T u) of all iterates, less L(w). At least 0, and a lower bound of
/// the true maximum. n + 1 passes.
///
/// # Errors
/// As [`one_step`]; `steps` is at least 1.
pub fn worst_case(surface: &mut Surface<'_>, ball: Ball, steps: usize) -> Result<f64> {
    ball.check()?;
    OutOfRange::check("steps", steps, steps > 0, "at least 1")?;
    surface.measure("worst-case sharpness", steps + 1, |surface| {
        let scale = Scale::new(ball.adaptive, surface)?;
        let length = 2.5 * ball.rho / steps as f64;
        let mut u = surface.weights()?.scaled(0.0)?;
        let mut excursion = surface.excursion()?;
        let mut losses = Vec::new();
        for _ in 0..steps {
            let (loss, gradient) = excursion.surface.gradient()?;
            losses.push(loss);
            u = u.plus(1.0, &scale.step(&gradient, length)?)?;
            let norm = u.norm()?;
            if norm > ball.rho {
                u = u.scaled(ball.rho / norm)?;
            }
            excursion.to(&[(1.0, &scale.of(&u)?)])?;
        }
        let last = excursion.surface.loss()?;
        let largest = losses.iter().copied().fold(last, f64::max);
        rise(if last.is_finite() { largest } else { last }, losses[0])
    })
}

/// The average rise at random places: E[L(w + δ)] - L(w). One pass for each place, and one.
///
/// # Errors
/// As [`one_step`].
pub fn average(surface: &mut Surface<'_>, noise: Noise) -> Result<Estimate> {
    let Noise { sigma, adaptive, draws, seed } = noise;
    OutOfRange::check("sigma", sigma, sigma.is_finite() && sigma >= 0.0, "a finite number of at least 0")?;
    Estimate::check(draws)?;
    surface.measure("average sharpness", draws + 1, |surface| {
        let scale = Scale::new(adaptive, surface)?;
        let mut excursion = surface.excursion()?;
        let loss = excursion.surface.loss()?;
        let mut rises = Vec::new();
        for draw in 0..draws as u64 {
            let delta = scale.of(&excursion.surface.gaussian(seed, draw)?)?;
            excursion.to(&[(sigma, &delta)])?;
            rises.push(rise(excursion.surface.loss()?, loss)?);
        }
        Ok(Estimate::of(&rises))
    })
}

fn rise(there: f64, here: f64) -> Result<f64> {
    finite("the loss in the neighborhood", there - here)
}
