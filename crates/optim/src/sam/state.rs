//! What is saved of SAM.

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};

use super::Sam;
use super::config::{Along, Climb, Descent, SamConfig, Scale, When};
use super::memory::{Memory, Squares};
use crate::state::{Entries, buffer, count, number};
use crate::{OptimizerState, Result};

/// The base optimizer's entries, and SAM's: the hyper-parameters (`sam.rho`, `sam.p`, `sam.normalize`, `sam.clip`, which is 0
/// for none, and as kind and numbers `sam.along`, `sam.scale`, `sam.descent` and `sam.when`), `sam.step`, the count of
/// steps, `sam.squares`, AE-SAM's mean and variance; and where a vector is remembered, for each parameter `sam.known.{name}`,
/// 1 once it has a value, and `sam.memory.{name}`, which is F-SAM's or VaSSO's average or what LookSAM keeps.
///
/// Which parameters are perturbed, and the radius of some, belong to how a `Sam` is made, and are not saved.
impl<O: OptimizerState> OptimizerState for Sam<O> {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.check_gradients()?;
        let memory = self.settled_memory();
        let mut state = self.base.state()?;
        let SamConfig { climb: Climb { rho, p, along, scale, normalize }, descent, when, clip } = self.config;
        let numbers = |name: &str, values: &[f64]| {
            Ok::<_, crate::Error>((name.into(), Tensor::new(values, &Device::Cpu)?))
        };
        state.extend([
            number("sam.rho", rho)?,
            number("sam.p", p)?,
            number("sam.normalize", normalize.into())?,
            number("sam.clip", clip.unwrap_or(0.0))?,
            numbers("sam.along", &numbers_of_along(along))?,
            numbers("sam.scale", &numbers_of_scale(scale))?,
            numbers("sam.descent", &numbers_of_descent(descent))?,
            numbers("sam.when", &numbers_of_when(when))?,
            count("sam", "step", memory.step)?,
            numbers("sam.squares", &[memory.squares.mean, memory.squares.variance])?,
        ]);
        if Memory::is_kept(&self.config) {
            for (index, (name, var)) in self.parameters.by_name()?.enumerate() {
                let known = memory.get(index);
                state.push(count("sam.known", name, known.is_some().into())?);
                state.push(match known {
                    Some(known) => buffer("sam.memory", name, known)?,
                    None => (format!("sam.memory.{name}"), var.zeros_like()?),
                });
            }
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let entry = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.clone());
        let (own, base): (HashMap<_, _>, HashMap<_, _>) =
            state.iter().map(entry).partition(|(name, _)| name.starts_with("sam."));
        let mut entries = Entries::of(&own);
        let climb = Climb {
            rho: entries.number("sam.rho")?,
            p: entries.number("sam.p")?,
            normalize: entries.switch("sam.normalize")?,
            along: entries.choice("sam.along", along_of_numbers, Along::Gradient)?,
            scale: entries.choice("sam.scale", scale_of_numbers, Scale::Plain)?,
        };
        let clip = Some(entries.number("sam.clip")?).filter(|clip| *clip != 0.0);
        let descent = entries.choice("sam.descent", descent_of_numbers, Descent::Perturbed)?;
        let when = entries.choice("sam.when", when_of_numbers, When::Always)?;
        let config = SamConfig { climb, descent, when, clip };
        let mut memory = Memory::of(self.places.len());
        memory.step = entries.count("sam", "step", u64::MAX >> 2)?;
        let [mean, variance] = entries.numbers::<2>("sam.squares")?;
        memory.squares = Squares { mean, variance };
        memory.squares_before = memory.squares;
        if Memory::is_kept(&config) {
            for (index, (name, var)) in self.parameters.by_name()?.enumerate() {
                let known = entries.count("sam.known", name, 1)? == 1;
                let kept: Var = entries.buffer("sam.memory", name, var)?;
                if known {
                    (memory.since[index], memory.vars[index]) = (Some(0), Some(kept));
                }
            }
        }
        entries.finish()?;
        config.validate()?;
        self.check_names(&config)?;
        self.base.load_state(&base)?;
        (self.config, self.memory) = (config, memory);
        Ok(())
    }
}

fn numbers_of_along(along: Along) -> [f64; 3] {
    match along {
        Along::Gradient => [0.0, 0.0, 0.0],
        Along::Friendly { sigma, lambda } => [1.0, sigma, lambda],
        Along::Averaged { theta } => [2.0, theta, 0.0],
        Along::Momentum => [3.0, 0.0, 0.0],
    }
}

fn along_of_numbers(numbers: [f64; 3]) -> Option<Along> {
    Some(match numbers {
        [0.0, ..] => Along::Gradient,
        [1.0, sigma, lambda] => Along::Friendly { sigma, lambda },
        [2.0, theta, _] => Along::Averaged { theta },
        [3.0, ..] => Along::Momentum,
        _ => return None,
    })
}

fn numbers_of_scale(scale: Scale) -> [f64; 3] {
    match scale {
        Scale::Plain => [0.0, 0.0, 0.0],
        Scale::Adaptive { eta, biases } => [1.0, eta, f64::from(biases)],
        Scale::Tensor => [2.0, 0.0, 0.0],
    }
}

fn scale_of_numbers(numbers: [f64; 3]) -> Option<Scale> {
    Some(match numbers {
        [0.0, ..] => Scale::Plain,
        [1.0, eta, biases] => Scale::Adaptive { eta, biases: biases == 1.0 },
        [2.0, ..] => Scale::Tensor,
        _ => return None,
    })
}

fn numbers_of_descent(descent: Descent) -> [f64; 3] {
    match descent {
        Descent::Perturbed => [0.0, 0.0, 0.0],
        Descent::SurrogateGap { alpha } => [1.0, alpha, 0.0],
        Descent::Weighted { gamma, decoupled } => [2.0, gamma, f64::from(decoupled)],
    }
}

fn descent_of_numbers(numbers: [f64; 3]) -> Option<Descent> {
    Some(match numbers {
        [0.0, ..] => Descent::Perturbed,
        [1.0, alpha, _] => Descent::SurrogateGap { alpha },
        [2.0, gamma, decoupled] => Descent::Weighted { gamma, decoupled: decoupled == 1.0 },
        _ => return None,
    })
}

fn numbers_of_when(when: When) -> [f64; 5] {
    // Counts of steps are far below 2^53, to which an f64 has them all.
    match when {
        When::Always => [0.0; 5],
        When::Every { k } => [1.0, k as f64, 0.0, 0.0, 0.0],
        When::From { step } => [2.0, step as f64, 0.0, 0.0, 0.0],
        When::Adaptive { delta, lambda1, lambda2, steps } => [3.0, delta, lambda1, lambda2, steps as f64],
        When::Look { k, alpha } => [4.0, k as f64, alpha, 0.0, 0.0],
    }
}

fn when_of_numbers(numbers: [f64; 5]) -> Option<When> {
    let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0).then_some(number as u64);
    Some(match numbers {
        [0.0, ..] => When::Always,
        [1.0, k, ..] => When::Every { k: whole(k)? },
        [2.0, step, ..] => When::From { step: whole(step)? },
        [3.0, delta, lambda1, lambda2, steps] => {
            When::Adaptive { delta, lambda1, lambda2, steps: whole(steps)? }
        }
        [4.0, k, alpha, ..] => When::Look { k: whole(k)?, alpha },
        _ => return None,
    })
}
