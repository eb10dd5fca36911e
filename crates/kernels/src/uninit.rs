//! Results in memory that nobody has to fill with zeros first.

use std::mem::MaybeUninit;

use crate::Result;

/// Where a result goes: every element is written, none is read before.
pub(crate) type Uninit = [MaybeUninit<f32>];

/// Elements as the memory of a result.
///
/// # Safety
/// Nothing uninitialized is written there.
pub(crate) unsafe fn as_uninit(values: &mut [f32]) -> &mut Uninit {
    // SAFETY: of one layout; the caller's promise keeps them initialized.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut Uninit) }
}

/// A vector of the `len` elements that `write` writes.
///
/// # Safety
/// Where `write` succeeds, it has written every element.
pub(crate) unsafe fn written(len: usize, write: impl FnOnce(&mut Uninit) -> Result<()>) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len])?;
    // SAFETY: the capacity is at least `len`, and every element has been written.
    unsafe { values.set_len(len) };
    Ok(values)
}
