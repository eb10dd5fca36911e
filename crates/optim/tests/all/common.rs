//! What several tests use.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use wrn_sam_optim::{Perturbed, Result, Sam};

pub const CPU: &Device = &Device::Cpu;

pub fn gradients(pairs: &[(&Var, &Tensor)]) -> GradStore {
    let mut store = GradStore::default();
    for (var, gradient) in pairs {
        store.insert(var, (*gradient).clone());
    }
    store
}

/// Names in an order that is not that of the list.
pub fn named(vars: &[Var]) -> Vec<(String, Var)> {
    let name = |index: usize| format!("layer{}.weight", vars.len() - index);
    vars.iter().enumerate().map(|(index, var)| (name(index), var.clone())).collect()
}

/// Begins a step and climbs, with a rho above 0.
pub fn climb<'a, O: candle_nn::Optimizer>(
    sam: &'a mut Sam<O>,
    gradients: &GradStore,
) -> Result<Perturbed<'a, O>> {
    Ok(sam.begin()?.climb(gradients)?.expect("rho is above 0"))
}

pub fn bits(vars: &[Var]) -> Result<Vec<u32>> {
    let values =
        vars.iter().map(|var| Ok(var.flatten_all()?.to_vec1::<f32>()?)).collect::<Result<Vec<_>>>()?;
    Ok(values.concat().into_iter().map(f32::to_bits).collect())
}

/// What an error says. Where backtraces are asked for, candle's errors carry one in the lines after the first.
pub fn first_line(error: impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}
