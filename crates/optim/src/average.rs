//! Averages of the weights over the steps of a training.

use std::collections::HashMap;

use candle_core::{Tensor, Var};
use wrn_sam_kernels::optimizer_step::{Combination, FoundInf, combine_all};
use wrn_sam_kernels::{Cpu, OutOfRange};

use crate::parameters::Parameters;
use crate::state::{Entries, buffer, count, number};
use crate::{OptimizerState, Result};

/// An average of weights over the steps of a training, beside the weights themselves: exponential (EMA) or equal (SWA,
/// Izmailov et al., <https://arxiv.org/abs/1803.05407>). It often does better on new images, and costs one pass over memory a
/// step.
///
/// Given with their names are the weights, and for an EMA the running statistics of batch normalization too; values that are
/// not floating-point, such as counts, are copied as they are. Equal averages of the statistics mean nothing: after SWA they are
/// estimated anew, with the averaged weights in place, by a pass over the training images.
///
/// ```
/// use candle_core::{Device, Var};
/// use wrn_sam_optim::WeightAverage;
///
/// let w = Var::new(&[0f32], &Device::Cpu)?;
/// let mut average = WeightAverage::ema(vec![("w".into(), w.clone())], 0.75)?;
/// for value in [4f32, 8.] {
///     w.set(&candle_core::Tensor::new(&[value], &Device::Cpu)?)?;
///     average.update()?;
/// }
/// assert_eq!(average.swapped(|| w.to_vec1::<f32>())??, [5.]); // 4, then 0.75 · 4 + 0.25 · 8
/// assert_eq!(w.to_vec1::<f32>()?, [8.]);
/// # Ok::<(), wrn_sam_optim::Error>(())
/// ```
#[derive(Debug)]
pub struct WeightAverage {
    parameters: Parameters,
    averages: Vec<Var>,
    kind: Kind,
    /// The updates so far.
    updates: u64,
    context: Cpu,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Exponential { decay: f64, warms_up: bool },
    Equal,
}

impl WeightAverage {
    /// An exponential average: the first update copies, every later one makes it decay · average + (1 - decay) · weights.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a decay outside [0, 1); those of a list of parameters.
    pub fn ema(parameters: Vec<(String, Var)>, decay: f64) -> Result<Self> {
        OutOfRange::check("decay", decay, (0.0..1.0).contains(&decay), "at least 0 and less than 1")?;
        Self::over(parameters, Kind::Exponential { decay, warms_up: false })
    }

    /// An equal average: update n, counted from 0, makes it average + (weights - average) / (n + 1). SWA updates it at the ends of
    /// the last epochs, at a learning rate that stays high.
    ///
    /// # Errors
    /// Those of a list of parameters.
    ///
    /// ```
    /// # use candle_core::{Device, Tensor, Var};
    /// # use wrn_sam_optim::WeightAverage;
    /// # let w = Var::new(&[0f32], &Device::Cpu)?;
    /// let mut average = WeightAverage::swa(vec![("w".into(), w.clone())])?;
    /// for value in [1f32, 2., 6.] {
    ///     w.set(&Tensor::new(&[value], &Device::Cpu)?)?;
    ///     average.update()?;
    /// }
    /// assert_eq!(average.values()[0].1.to_vec1::<f32>()?, [3.]);
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn swa(parameters: Vec<(String, Var)>) -> Result<Self> {
        Self::over(parameters, Kind::Equal)
    }

    fn over(parameters: Vec<(String, Var)>, kind: Kind) -> Result<Self> {
        let parameters = Parameters::named(parameters)?;
        let averages = parameters.vars().iter().map(|var| Var::from_tensor(&var.copy()?));
        let averages = averages.collect::<candle_core::Result<_>>()?;
        Ok(Self { parameters, averages, kind, updates: 0, context: Cpu::shared().clone() })
    }

    /// With an exponential average's decay of at most (1 + n) / (10 + n) in update n, so that the first weights are soon
    /// forgotten.
    #[must_use]
    pub fn with_warm_up(mut self) -> Self {
        if let Kind::Exponential { warms_up, .. } = &mut self.kind {
            *warms_up = true;
        }
        self
    }

    /// Runs on the threads of `context` rather than on all of the machine's.
    #[must_use]
    pub fn with_cpu(self, context: Cpu) -> Self {
        Self { context, ..self }
    }

    /// Takes the weights as they are now into the average: after a step of the optimizer.
    ///
    /// # Errors
    /// A kernel's or candle's.
    pub fn update(&mut self) -> Result<()> {
        let n = self.updates as f64;
        let share = match self.kind {
            _ if self.updates == 0 => 1.0,
            Kind::Exponential { decay, warms_up: true } => 1.0 - decay.min((1.0 + n) / (10.0 + n)),
            Kind::Exponential { decay, warms_up: false } => 1.0 - decay,
            Kind::Equal => 1.0 / (n + 1.0),
        };
        let mut rows = Vec::new();
        for (average, var) in self.averages.iter().zip(self.parameters.vars()) {
            if share == 1.0 || !var.dtype().is_float() {
                average.set(var)?;
            } else {
                rows.push((average, var.as_tensor(), var.as_tensor()));
            }
        }
        combine_all(&self.context, Combination::Toward(share), &rows, &FoundInf::default())?;
        self.updates += 1;
        Ok(())
    }

    /// How many updates there were.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The averages by the parameters' names: those of now, which later updates change. Before the first update they are
    /// the parameters at the beginning.
    pub fn values(&self) -> Vec<(String, Tensor)> {
        let names = self.parameters.names().unwrap_or_default();
        names.iter().cloned().zip(self.averages.iter().map(Var::as_detached_tensor)).collect()
    }

    /// Runs `f` with the averages in place of the weights, such as an evaluation, and puts the weights back, also after a
    /// panic. What `f` makes of the weights meanwhile, such as statistics estimated anew, stays in the average.
    ///
    /// # Errors
    /// candle's where it cannot copy.
    pub fn swapped<T>(&mut self, f: impl FnOnce() -> T) -> Result<T> {
        /// Exchanges when it is made, and again when it is dropped.
        struct Swapped<'a>(Vec<(&'a Var, &'a Var)>);
        impl Swapped<'_> {
            fn exchange(&self) -> candle_core::Result<()> {
                for (one, other) in &self.0 {
                    let kept = one.copy()?;
                    one.set(other)?;
                    other.set(&kept)?;
                }
                Ok(())
            }
        }
        impl Drop for Swapped<'_> {
            fn drop(&mut self) {
                // It can only fail where a device does.
                let _ = self.exchange();
            }
        }
        let swapped = Swapped(self.parameters.vars().iter().zip(&self.averages).collect());
        swapped.exchange()?;
        Ok(f())
    }
}

/// `decay`, 0 for an equal average, `warms_up`, `count.updates`, and `average.{name}` for each parameter.
impl OptimizerState for WeightAverage {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let (decay, warms_up) = match self.kind {
            Kind::Exponential { decay, warms_up } => (decay, warms_up),
            Kind::Equal => (0.0, false),
        };
        let mut state = vec![
            number("decay", decay)?,
            number("warms_up", warms_up.into())?,
            count("count", "updates", self.updates)?,
        ];
        for ((name, _), average) in self.parameters.by_name()?.zip(&self.averages) {
            state.push(buffer("average", name, average)?);
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut entries = Entries::of(state);
        let decay = entries.number("decay")?;
        let warms_up = entries.switch("warms_up")?;
        let updates = entries.count("count", "updates", u64::MAX >> 2)?;
        let mut averages = Vec::new();
        for (name, var) in self.parameters.by_name()? {
            averages.push(entries.buffer("average", name, var)?);
        }
        entries.finish()?;
        let kind = match self.kind {
            Kind::Exponential { .. } => Kind::Exponential { decay, warms_up },
            Kind::Equal => Kind::Equal,
        };
        OutOfRange::check("decay", decay, (0.0..1.0).contains(&decay), "at least 0 and less than 1")?;
        (self.kind, self.updates, self.averages) = (kind, updates, averages);
        Ok(())
    }
}
