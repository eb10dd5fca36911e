//! Learning rates and radii over the epochs.

/// A learning rate, or a radius of SAM, for every epoch, counted from 0: a pure function, so that a resumed run continues where it
/// was. Any closure of this shape is one.
///
/// ```
/// use wrn_sam_optim::{CosineWithWarmup, MultiStepLr, Schedule};
/// let schedules: [Box<dyn Schedule>; 3] = [
///     Box::new(MultiStepLr::new(0.1, [60, 120, 160], 0.2)),
///     Box::new(CosineWithWarmup::new(0.1, 200, 5)),
///     Box::new(|epoch| 0.1 / (1.0 + epoch as f64)),
/// ];
/// assert!(schedules.iter().all(|schedule| schedule.at(199) < 0.1));
/// ```
pub trait Schedule {
    /// The learning rate, or whatever it is a schedule of, in `epoch`, counted from 0.
    fn at(&self, epoch: usize) -> f64;
}

impl<F: Fn(usize) -> f64> Schedule for F {
    fn at(&self, epoch: usize) -> f64 {
        self(epoch)
    }
}

/// The base rate, multiplied by gamma from each milestone on, as PyTorch's `MultiStepLR`:
///
/// base · gammaᵏ in an epoch that k milestones are not above.
///
/// ```
/// use wrn_sam_optim::{MultiStepLr, Schedule};
/// let schedule = MultiStepLr::new(0.1, [60, 120], 0.2);
/// assert_eq!(schedule.at(59), 0.1);
/// assert!((schedule.at(60) - 0.02).abs() < 1e-12);
/// assert!((schedule.at(120) - 0.004).abs() < 1e-12);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MultiStepLr {
    base: f64,
    milestones: Vec<usize>,
    gamma: f64,
}

impl MultiStepLr {
    /// The rate `base`, times `gamma` from each of the epochs `milestones` on, which may be in any order.
    pub fn new(base: f64, milestones: impl Into<Vec<usize>>, gamma: f64) -> Self {
        Self { base, milestones: milestones.into(), gamma }
    }
}

impl Schedule for MultiStepLr {
    fn at(&self, epoch: usize) -> f64 {
        let passed = self.milestones.iter().filter(|&&milestone| milestone <= epoch).count();
        self.base * self.gamma.powi(i32::try_from(passed).unwrap_or(i32::MAX))
    }
}

/// A linear rise to the base rate over the first epochs, then half a cosine down to zero
/// (Loshchilov & Hutter, <https://arxiv.org/abs/1608.03983>, without restarts).
///
/// Epoch e of a warm-up of k epochs has base · (e + 1) / (k + 1), so that no epoch's rate is zero; of n epochs,
/// those from k on have base / 2 · (1 + cos(π (e - k) / (n - k))), and those from both n and k on have 0.
///
/// ```
/// use wrn_sam_optim::{CosineWithWarmup, Schedule};
/// let schedule = CosineWithWarmup::new(0.3, 22, 2);
/// assert!((schedule.at(0) - 0.1).abs() < 1e-12);
/// assert!((schedule.at(1) - 0.2).abs() < 1e-12);
/// assert_eq!(schedule.at(2), 0.3);
/// assert!((schedule.at(12) - 0.15).abs() < 1e-12);
/// assert_eq!(schedule.at(22), 0.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineWithWarmup {
    base: f64,
    epochs: usize,
    warmup: usize,
}

impl CosineWithWarmup {
    /// The schedule of a training of `epochs` epochs, the first `warmup` of which rise to the rate `base`.
    pub fn new(base: f64, epochs: usize, warmup: usize) -> Self {
        Self { base, epochs, warmup }
    }
}

impl Schedule for CosineWithWarmup {
    fn at(&self, epoch: usize) -> f64 {
        if epoch < self.warmup {
            return self.base * (epoch + 1) as f64 / (self.warmup as f64 + 1.0);
        }
        if epoch >= self.epochs {
            return 0.0;
        }
        let progress = (epoch - self.warmup) as f64 / (self.epochs - self.warmup) as f64;
        self.base / 2.0 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

/// A radius of SAM that follows the learning rate, as GSAM's (Zhuang et al., <https://arxiv.org/abs/2203.08065>):
///
/// rho = rho_min + (rho_max - rho_min) · (rate - rate_min) / (rate_max - rate_min).
///
/// ```
/// use wrn_sam_optim::{CosineWithWarmup, Proportional, Schedule};
/// let rates = CosineWithWarmup::new(0.1, 20, 0);
/// let radii = Proportional::new(rates, (0.02, 0.1), (0.0, 0.1));
/// assert_eq!((radii.at(0), radii.at(20)), (0.1, 0.02));
/// assert!((radii.at(10) - 0.06).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proportional<S> {
    rates: S,
    rho: (f64, f64),
    rate: (f64, f64),
}

impl<S: Schedule> Proportional<S> {
    /// From the least to the largest `rho`, while `rates` goes from the least to the largest `rate`, both given as
    /// (least, largest). Where these are the same, rho is the largest.
    pub fn new(rates: S, rho: (f64, f64), rate: (f64, f64)) -> Self {
        Self { rates, rho, rate }
    }

    /// The radius at this learning rate.
    pub fn of_rate(&self, rate: f64) -> f64 {
        let ((least, largest), (low, high)) = (self.rho, self.rate);
        if high == low { largest } else { least + (largest - least) * (rate - low) / (high - low) }
    }
}

impl<S: Schedule> Schedule for Proportional<S> {
    fn at(&self, epoch: usize) -> f64 {
        self.of_rate(self.rates.at(epoch))
    }
}
