//! Learning rates over the epochs.

/// A learning rate for every epoch, counted from 0: a pure function, so that a resumed run goes on where it
/// was. Any closure of this shape is one.
///
/// ```
/// use wrn_sam_optim::{CosineWithWarmup, Schedule, StepLr};
/// let schedules: [Box<dyn Schedule>; 3] = [
///     Box::new(StepLr::new(0.1, 200)),
///     Box::new(CosineWithWarmup::new(0.1, 200, 5)),
///     Box::new(|epoch| 0.1 / (1.0 + epoch as f64)),
/// ];
/// assert!(schedules.iter().all(|schedule| schedule.at(199) < 0.1));
/// ```
pub trait Schedule {
    /// The learning rate of `epoch`, counted from 0.
    fn at(&self, epoch: usize) -> f64;
}

impl<F: Fn(usize) -> f64> Schedule for F {
    fn at(&self, epoch: usize) -> f64 {
        self(epoch)
    }
}

/// The base rate, times 0.2 from each of 20 %, 50 %, 70 % and 85 % of the epochs on.
///
/// ```
/// use wrn_sam_optim::{Schedule, StepLr};
/// let schedule = StepLr::new(0.1, 200);
/// assert_eq!(schedule.at(0), 0.1);
/// assert_eq!(schedule.at(39), 0.1);
/// assert!((schedule.at(40) - 0.02).abs() < 1e-12);
/// assert!((schedule.at(199) - 0.00016).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLr {
    base: f64,
    epochs: usize,
}

impl StepLr {
    const FACTOR: f64 = 0.2;
    const PERCENT: [usize; 4] = [20, 50, 70, 85];

    /// The schedule of a training of `epochs` epochs that begins with the rate `base`.
    pub fn new(base: f64, epochs: usize) -> Self {
        Self { base, epochs }
    }
}

impl Schedule for StepLr {
    fn at(&self, epoch: usize) -> f64 {
        // In whole numbers: 0.7 * epochs may fall short of the epoch it means.
        let passed = Self::PERCENT.iter().filter(|&percent| epoch * 100 >= self.epochs * percent).count();
        self.base * Self::FACTOR.powi(passed as i32)
    }
}

/// A linear rise to the base rate over the first epochs, then half a cosine down to zero
/// (Loshchilov & Hutter, <https://arxiv.org/abs/1608.03983>, without restarts).
///
/// Epoch e of a warm-up of k epochs has base · (e + 1) / (k + 1), so that no epoch's rate is zero; of n epochs,
/// those from k on have base / 2 · (1 + cos(π (e - k) / (n - k))).
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
            return self.base * (epoch + 1) as f64 / (self.warmup + 1) as f64;
        }
        if epoch >= self.epochs {
            return 0.0;
        }
        let progress = (epoch - self.warmup) as f64 / (self.epochs - self.warmup) as f64;
        self.base / 2.0 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}
