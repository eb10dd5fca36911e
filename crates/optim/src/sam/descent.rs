//! What the base optimizer sees, and what is remembered of a step that was taken.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::optimizer_step::{Combination, Dots, Rule, combine_all, dots};

use super::ascent::keep_beside;
use super::config::{Along, Descent, When};
use super::memory::Squares;
use super::{Pass, Sam};
use crate::{Error, Result};

/// A parameter, and two vectors' parts for it.
pub(super) struct Pair {
    pub(super) index: usize,
    pub(super) var: Var,
    pub(super) x: Tensor,
    pub(super) y: Tensor,
}

impl<O> Sam<O> {
    /// Whether the descent or the memory reads the first gradients after the second pass.
    pub(super) fn needs_first(&self) -> bool {
        self.config.climb.along.remembers()
            || self.config.descent != Descent::Perturbed
            || matches!(self.config.when, When::Look { .. })
    }

    /// The gradients of our parameters, as shares of the same memory.
    pub(super) fn kept(&self, gradients: &GradStore) -> Result<GradStore> {
        let mut kept = GradStore::default();
        for (_, var, gradient) in self.parameters.with_gradients(gradients)? {
            kept.insert(var, gradient.detach());
        }
        Ok(kept)
    }

    /// How g1 and g2 become what the base sees, if that is not g2 itself.
    pub(super) fn rule(&self) -> Option<Rule> {
        match self.config.descent {
            Descent::Perturbed => None,
            Descent::SurrogateGap { alpha } => Some(Rule::SurrogateGap { alpha }),
            Descent::Weighted { decoupled: true, .. } => Some(Rule::Fixed(1.0, 0.0)),
            Descent::Weighted { gamma, decoupled: false } => {
                let kappa = gamma / (1.0 - gamma);
                Some(Rule::Fixed(1.0 - kappa, kappa))
            }
        }
    }

    /// Every parameter with its gradients in two stores.
    pub(super) fn pairs(&self, x: &GradStore, y: &GradStore) -> Result<Vec<Pair>> {
        self.parameters.with_gradients(x)?;
        self.parameters.with_gradients(y)?;
        let pair = |(index, var): (usize, &Var)| match (x.get(var), y.get(var)) {
            (None, None) => None,
            (Some(x), Some(y)) => Some(Ok(Pair { index, var: var.clone(), x: x.detach(), y: y.detach() })),
            _ => Some(Err(Error::OnePass { parameter: self.parameters.label(index) })),
        };
        self.parameters.vars().iter().enumerate().filter_map(pair).collect()
    }

    /// Every parameter with its gradient, and beside it what LookSAM keeps, or zeros.
    fn pairs_with_memory(&self, gradients: &GradStore) -> Result<Vec<Pair>> {
        let rows = self.parameters.with_gradients(gradients)?;
        let pair = |(index, var, gradient): (usize, &Var, &Tensor)| {
            let y = self
                .memory
                .get(index)
                .map_or_else(|| gradient.zeros_like(), |v| Ok(v.as_detached_tensor()))?;
            Ok(Pair { index, var: var.clone(), x: gradient.detach(), y })
        };
        rows.into_iter().map(pair).collect()
    }

    /// The dot products over these pairs. Where they are known here, they are checked to be finite.
    pub(super) fn dots(&self, pass: Pass, pairs: &[Pair]) -> Result<Dots> {
        let rows: Vec<_> = pairs.iter().map(|pair| (&pair.x, &pair.y)).collect();
        let (dots, each) = dots(&self.context, &rows, &self.found_inf)?;
        if let Some(each) = each {
            let squares = pairs.iter().zip(each).map(|(pair, [xx, _, yy])| (pair.index, xx + yy));
            self.finite_sum(pass, squares)?;
        }
        Ok(dots)
    }

    /// α x + β y in memory of our own, as gradients, with what `rule` and the configuration's clip make of the dot products.
    fn mixed(&mut self, dots: &Dots, rule: Rule, pairs: &[Pair]) -> Result<GradStore> {
        let mix = dots.mix(rule, self.config.clip)?;
        let (mut rows, mut store) = (Vec::new(), GradStore::default());
        for Pair { index, var, x, y } in pairs {
            let place = keep_beside(&mut self.scratch[*index], var)?;
            store.insert(var, place.as_detached_tensor());
            rows.push((place.clone(), x, y));
        }
        let rows: Vec<_> = rows.iter().map(|(place, x, y)| (place, *x, *y)).collect();
        combine_all(&self.context, Combination::Mixed(&mix, 1.0), &rows, &self.found_inf)?;
        self.descent_norm = Some(mix.norm().clone());
        Ok(store)
    }
}

impl<O: Optimizer> Sam<O> {
    /// Ends a step of one pass: the base steps along g1, or along g1 and what LookSAM keeps.
    pub(super) fn descend_along_first(&mut self, first: &GradStore, squares: Squares) -> Result<()> {
        let reused = match self.config.when {
            When::Look { alpha, .. } if self.config.climb.rho > 0.0 => Some(Rule::Reuse { alpha }),
            _ => None,
        };
        let mixed = match reused {
            Some(rule) => {
                let pairs = self.pairs_with_memory(first)?;
                let dots = self.dots(Pass::First, &pairs)?;
                Some(self.mixed(&dots, rule, &pairs)?)
            }
            None => self.clipped(Pass::First, first)?,
        };
        self.restore_weights()?;
        self.step_base(mixed.as_ref().unwrap_or(first))?;
        self.end(squares);
        Ok(())
    }

    /// Ends a step of two passes. `first` holds g1 where [`needs_first`](Self::needs_first) says so.
    pub(super) fn descend_along_second(
        &mut self,
        first: Option<&GradStore>,
        second: &GradStore,
        squares: Squares,
    ) -> Result<()> {
        let (mut mixed, mut beside, mut pairs) = (None, None, Vec::new());
        match first {
            None => mixed = self.clipped(Pass::Second, second)?,
            Some(first) => {
                pairs = self.pairs(first, second)?;
                let dots = self.dots(Pass::Second, &pairs)?;
                self.cosine = Some(dots.mix(Rule::Beside, None)?.cosine().clone());
                if let When::Look { .. } = self.config.when {
                    beside = Some(dots.mix(Rule::Beside, None)?);
                }
                match (self.rule(), self.config.clip) {
                    (Some(rule), _) => mixed = Some(self.mixed(&dots, rule, &pairs)?),
                    (None, Some(_)) => mixed = Some(self.mixed(&dots, Rule::Fixed(0.0, 1.0), &pairs)?),
                    (None, None) => {}
                }
            }
        }
        self.restore_weights()?;
        self.buffers.end_second_pass(&self.found_inf)?;
        self.step_base(mixed.as_ref().unwrap_or(second))?;

        // The step is taken. What follows can only fail where a device does.
        if let Descent::Weighted { gamma, decoupled: true } = self.config.descent {
            let far = self.base.learning_rate() * gamma / (1.0 - gamma);
            let away = Dots::Here([0.0; 3]).mix(Rule::Fixed(far, -far), None)?;
            let rows: Vec<_> = pairs.iter().map(|pair| (&pair.var, &pair.x, &pair.y)).collect();
            combine_all(&self.context, Combination::Plus(&away, 1.0), &rows, &self.found_inf)?;
        }
        if let Some(beside) = beside {
            self.remember(&pairs, |_| Combination::Mixed(&beside, 1.0))?;
        }
        match self.config.climb.along {
            Along::Friendly { lambda, .. } => self.remember_average(&pairs, 1.0 - lambda)?,
            Along::Averaged { theta } => self.remember_average(&pairs, theta)?,
            Along::Gradient | Along::Momentum => {}
        }
        self.end(squares);
        Ok(())
    }

    /// The gradients cut to the configuration's norm, if it has one; in any case a check that they are finite.
    fn clipped(&mut self, pass: Pass, gradients: &GradStore) -> Result<Option<GradStore>> {
        if self.config.clip.is_none() {
            self.check_finite(pass, gradients)?;
            return Ok(None);
        }
        let pairs = self.pairs(gradients, gradients)?;
        let dots = self.dots(pass, &pairs)?;
        self.mixed(&dots, Rule::Fixed(0.0, 1.0), &pairs).map(Some)
    }

    /// m ← m + share · (g1 - m); the first time m = g1.
    fn remember_average(&mut self, pairs: &[Pair], share: f64) -> Result<()> {
        self.remember(
            pairs,
            |known| if known { Combination::Toward(share) } else { Combination::Scaled(1.0) },
        )
    }

    /// Writes the memory of every pair, by what `combination` says for those that have one already and for the others.
    fn remember<'a>(&mut self, pairs: &[Pair], combination: impl Fn(bool) -> Combination<'a>) -> Result<()> {
        for known in [true, false] {
            let mut rows = Vec::new();
            for Pair { index, var, x, y } in pairs {
                if self.memory.since[*index].is_some() == known {
                    rows.push((self.memory.place(*index, var)?.clone(), x, y));
                }
            }
            let rows: Vec<_> = rows.iter().map(|(place, x, y)| (place, *x, *y)).collect();
            combine_all(&self.context, combination(known), &rows, &self.found_inf)?;
        }
        for pair in pairs {
            self.memory.since[pair.index].get_or_insert(self.memory.step);
        }
        Ok(())
    }

    /// The step is taken: nothing of it is undone any more.
    fn end(&mut self, squares: Squares) {
        self.memory.count(squares);
        self.buffers.end();
    }
}
