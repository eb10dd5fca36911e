//! What is saved of SAM.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{Sam, SamConfig};
use crate::state::{Entries, number};
use crate::{OptimizerState, Result};

/// The base optimizer's entries, and `sam.rho`, `sam.adaptive` and `sam.p`. Between steps SAM itself has no
/// other state.
impl<O: OptimizerState> OptimizerState for Sam<O> {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.check_gradients()?;
        let mut state = self.base.state()?;
        state.extend([
            number("sam.rho", self.config.rho)?,
            number("sam.adaptive", self.config.adaptive.into())?,
            number("sam.p", self.config.p)?,
        ]);
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let entry = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.clone());
        let (own, base): (HashMap<_, _>, HashMap<_, _>) =
            state.iter().map(entry).partition(|(name, _)| name.starts_with("sam."));
        let mut entries = Entries::of(&own);
        let config = SamConfig {
            rho: entries.number("sam.rho")?,
            adaptive: entries.switch("sam.adaptive")?,
            p: entries.number("sam.p")?,
        };
        entries.finish()?;
        config.validate()?;
        self.base.load_state(&base)?;
        self.config = config;
        Ok(())
    }
}
