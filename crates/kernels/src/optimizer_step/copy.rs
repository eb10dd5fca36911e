//! Copies of several variables that a GPU can be told to leave out.

use candle_core::Var;

use super::FoundInf;
use crate::Result;

/// Copies every variable to another of its shape and type, each given as (from, to), to the bit.
///
/// On a GPU (feature `cuda`) variables of 4 or 8 bytes an element are copied in one launch for 64 of them, and none of
/// those is copied once `found_inf` has noted a gradient that was not finite: the copies then stay those from before it.
///
/// # Errors
/// A variable of another shape than its copy.
///
/// ```
/// use candle_core::{Device, Var};
/// use wrn_sam_kernels::optimizer_step::{FoundInf, copy_all};
///
/// let (count, copy) = (Var::new(7i64, &Device::Cpu)?, Var::new(0i64, &Device::Cpu)?);
/// copy_all(&[(&count, &copy)], &FoundInf::default())?;
/// assert_eq!(copy.to_scalar::<i64>()?, 7);
/// # Ok::<(), wrn_sam_kernels::Error>(())
/// ```
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn copy_all(pairs: &[(&Var, &Var)], found_inf: &FoundInf) -> Result<()> {
    #[cfg(feature = "cuda")]
    let pairs = super::cuda::copy(pairs, found_inf)?;
    for (from, to) in pairs {
        to.set(from)?;
    }
    Ok(())
}
