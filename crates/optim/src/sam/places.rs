//! Parameters that are treated in a way of their own: perturbed or not, with which radius, and in which unit.

use candle_core::Var;
use wrn_sam_kernels::OutOfRange;

use super::Sam;
use super::config::{SamConfig, Scale};
use crate::parameters::Parameters;
use crate::state::check_not_negative;
use crate::{Error, Result};

/// What is special about a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) perturbed: bool,
    /// Its radius, relative to the configuration's.
    pub(super) rho_ratio: f64,
    /// Whether its name says that it is a bias.
    pub(super) is_bias: bool,
}

/// Of parameters of which nothing but the names is known.
pub(super) fn of(parameters: &Parameters) -> Vec<Place> {
    let place = |index: usize| {
        let name = parameters.names().map_or("", |names| &names[index]);
        Place { perturbed: true, rho_ratio: 1.0, is_bias: name.rsplit('.').next() == Some("bias") }
    };
    (0..parameters.vars().len()).map(place).collect()
}

impl<O> Sam<O> {
    /// Perturbs only these of the parameters, and takes the ascent's norm over them only. All are stepped. With the weights
    /// and biases of normalization layers it is SAM-ON (Mueller et al., <https://arxiv.org/abs/2306.04226>), whose rho is
    /// larger: 1 in plain units, 10 in adaptive ones.
    ///
    /// # Errors
    /// [`Error::NoParameters`] for an empty list; [`Error::UnknownParameter`] for a variable that is not a parameter.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_nn::Optimizer;
    /// use wrn_sam_optim::{Sam, SamConfig, Sgd, SgdConfig};
    ///
    /// let (weight, scale) = (Var::new(&[3f32], &Device::Cpu)?, Var::new(&[4f32], &Device::Cpu)?);
    /// let sgd = Sgd::new(vec![weight.clone(), scale.clone()], SgdConfig::new(0.1))?;
    /// let mut sam = Sam::new(sgd, SamConfig::sam(1.0))?.perturbing(&[scale.clone()])?;
    /// let perturbed = sam.begin()?.climb(&(weight.sqr()? + scale.sqr()?)?.backward()?)?;
    /// assert_eq!((weight.to_vec1::<f32>()?, scale.to_vec1::<f32>()?), (vec![3.], vec![5.]));
    /// # Ok::<(), wrn_sam_optim::Error>(())
    /// ```
    pub fn perturbing(mut self, subset: &[Var]) -> Result<Self> {
        let indices = self.parameters.indices(subset)?;
        for (index, place) in self.places.iter_mut().enumerate() {
            place.perturbed = indices.contains(&index);
        }
        Ok(self)
    }

    /// Gives these parameters a radius of their own; the norm is still taken over all. Where rho changes later, as by a
    /// schedule, theirs changes by the same factor. A radius of 0 is not the same as leaving them out of the norm:
    /// [`perturbing`](Self::perturbing) does that.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a radius that is no number of at least 0, or a configuration whose rho is 0;
    /// [`Error::NoParameters`]; [`Error::UnknownParameter`].
    pub fn with_rho_of(mut self, subset: &[Var], rho: f64) -> Result<Self> {
        check_not_negative("rho", rho)?;
        let whole = self.config.climb.rho;
        OutOfRange::check("rho", whole, whole > 0.0, "above 0, to give some parameters another")?;
        for index in self.parameters.indices(subset)? {
            self.places[index].rho_ratio = rho / whole;
        }
        Ok(self)
    }

    /// Checks that biases have names to be told apart by, where they are to be.
    pub(super) fn check_names(&self, config: &SamConfig) -> Result<()> {
        let told_apart = matches!(config.climb.scale, Scale::Adaptive { biases: false, .. });
        if told_apart && self.parameters.names().is_none() { Err(Error::Unnamed) } else { Ok(()) }
    }
}
