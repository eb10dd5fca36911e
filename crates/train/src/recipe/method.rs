//! The member of the SAM family that a recipe asks for.

use wrn_sam_kernels::OutOfRange;
use wrn_sam_optim::{Along, AscentOver, Descent, Proportional, SamConfig, Scale, When};

use super::keys::{keyed, renamed};
use super::{Ascent, Method, Recipe, RhoSchedule};
use crate::error::Result;

impl Recipe {
    /// The configuration of SAM around the base optimizer, at the radius `rho`.
    pub fn sam(&self) -> SamConfig {
        let Self { rho, sam_every, .. } = *self;
        let sam = match self.method {
            Method::Sgd => SamConfig::sam(0.0),
            Method::Sam => SamConfig::sam(rho),
            Method::Asam => {
                SamConfig::asam(rho).with_scale(Scale::Adaptive { eta: self.asam_eta, biases: false })
            }
            Method::Msam => SamConfig::msam(rho),
            Method::Looksam => SamConfig::looksam(rho),
            Method::Fsam => {
                let (sigma, lambda) = (self.fsam_sigma, self.fsam_lambda);
                SamConfig::fsam(rho).with_along(Along::Friendly { sigma, lambda })
            }
            Method::Vasso => SamConfig::vasso(rho).with_along(Along::Averaged { theta: self.vasso_theta }),
            Method::Gsam => {
                SamConfig::gsam(rho).with_descent(Descent::SurrogateGap { alpha: self.gsam_alpha })
            }
            Method::Wsam => {
                let (gamma, decoupled) = (self.wsam_gamma, self.wsam_decoupled);
                SamConfig::wsam(rho).with_descent(Descent::Weighted { gamma, decoupled })
            }
        };
        let sam = match self.method {
            Method::Looksam => sam.with_when(When::Look { k: self.looksam_every, alpha: self.looksam_alpha }),
            _ if sam_every > 1 => sam.with_when(When::Every { k: sam_every }),
            _ => sam,
        };
        let sam =
            if self.adaptive { sam.with_scale(Scale::Adaptive { eta: 0.0, biases: true }) } else { sam };
        sam.with_p(self.norm).with_clip((self.clip > 0.0).then_some(self.clip))
    }

    /// The radius in `epoch`, counted from 0, whose learning rate is `rate`.
    pub fn radius(&self, epoch: usize, rate: f64) -> f64 {
        let largest = self.sam().climb.rho;
        match self.rho_schedule {
            _ if epoch < self.sam_from_epoch || largest == 0.0 => 0.0,
            RhoSchedule::Constant => largest,
            RhoSchedule::Proportional => {
                let rates = |_| self.learning_rate;
                Proportional::new(rates, (self.rho_min, largest), (0.0, self.learning_rate)).of_rate(rate)
            }
        }
    }

    /// Over which images each step's ascent is taken.
    pub fn ascent_over(&self) -> AscentOver {
        match self.ascent {
            Ascent::Batch => AscentOver::Batch,
            Ascent::Micro => AscentOver::MicroBatch,
        }
    }

    /// How many gradients a training takes of each image, on average over its epochs: 1 for SGD and MSAM, 2 for SAM.
    ///
    /// ```
    /// use wrn_sam_train::Recipe;
    ///
    /// let gradients = |toml: &str| Ok::<_, wrn_sam_train::Error>(Recipe::from_toml(toml)?.gradients_per_epoch());
    /// assert_eq!(gradients("method = 'sgd'")?, 1.0);
    /// assert_eq!(gradients("method = 'sam'")?, 2.0);
    /// assert_eq!(gradients("method = 'looksam'")?, 1.2);
    /// assert_eq!(gradients("epochs = 8\nsam_from_epoch = 7")?, 1.125);
    /// # Ok::<(), wrn_sam_train::Error>(())
    /// ```
    pub fn gradients_per_epoch(&self) -> f64 {
        let sam = self.sam();
        let second = match sam.when {
            _ if sam.climb.rho == 0.0 || sam.climb.along == Along::Momentum => 0.0,
            When::Every { k } | When::Look { k, .. } => 1.0 / k as f64,
            _ => 1.0,
        };
        let epochs = self.epochs as f64;
        1.0 + second * (epochs - (self.sam_from_epoch as f64).min(epochs)) / epochs
    }

    /// Checks the keys of every method, also of those that are not in force.
    pub(super) fn check_method(&self) -> Result<()> {
        let Self { micro_batches, ascent, ema, swa_epochs, clip, rho_min, sam_every, .. } = *self;
        OutOfRange::check("sam_every", sam_every, sam_every >= 1, "at least 1")?;
        OutOfRange::check("clip", clip, clip.is_finite() && clip >= 0.0, "a number of at least 0")?;
        for method in Method::ALL {
            let only = Self { method, adaptive: false, sam_every: 1, ..self.clone() };
            renamed(only.sam().validate(), |name| key(method, name))?;
        }
        keyed(self.sam().validate())?;
        OutOfRange::check("rho_min", rho_min, (0.0..=self.rho).contains(&rho_min), "from 0 to `rho`")?;
        let plain = !self.adaptive || self.method != Method::Asam;
        OutOfRange::check("adaptive", self.adaptive, plain, "false with the method asam, which is adaptive")?;
        let (momentum, moves) = (self.momentum, self.method != Method::Msam || self.momentum > 0.0);
        OutOfRange::check("momentum", momentum, moves, "above 0 with the method msam")?;
        let divides = micro_batches.is_power_of_two() && self.batch_size.is_multiple_of(micro_batches);
        let range = "a power of two that divides `batch_size`";
        OutOfRange::check("micro_batches", micro_batches, divides, range)?;
        let whole = match self.method {
            Method::Msam | Method::Looksam | Method::Fsam | Method::Vasso => true,
            Method::Wsam => self.wsam_decoupled,
            Method::Sgd | Method::Sam | Method::Asam | Method::Gsam => false,
        };
        let each = micro_batches > 1 && ascent == Ascent::Micro && whole;
        OutOfRange::check(
            "ascent",
            "micro",
            !each,
            "batch with a method that needs the whole batch's gradients",
        )?;
        OutOfRange::check("ema", ema, (0.0..1.0).contains(&ema), "at least 0 and less than 1")?;
        OutOfRange::check("swa_epochs", swa_epochs, swa_epochs <= self.epochs, "at most `epochs`")?;
        OutOfRange::check(
            "swa_epochs",
            swa_epochs,
            swa_epochs == 0 || ema == 0.0,
            "0 where `ema` is above 0",
        )?;
        Ok(())
    }
}

/// The recipe's key for what a method's configuration calls `name`.
fn key(method: Method, name: &'static str) -> &'static str {
    match (method, name) {
        (_, "p") => "norm",
        (Method::Asam, "eta") => "asam_eta",
        (Method::Looksam, "k") => "looksam_every",
        (Method::Looksam, "alpha") => "looksam_alpha",
        (Method::Fsam, "sigma") => "fsam_sigma",
        (Method::Fsam, "lambda") => "fsam_lambda",
        (Method::Vasso, "theta") => "vasso_theta",
        (Method::Gsam, "alpha") => "gsam_alpha",
        (Method::Wsam, "gamma") => "wsam_gamma",
        (_, name) => name,
    }
}
