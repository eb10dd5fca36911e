//! The gradients that nodes pass to each other.
//!
//! candle adds every gradient to a tensor of zeros of its own order. Between channels-last tensors that is two transposing
//! passes over memory for each operation, in which more time can go than in the operation. So a node on the CPU has a *token*
//! of one element, which is what candle walks to; the tensor that the node gives only hangs on it ([`Expose`]). Another node
//! that takes this tensor finds the token by the tensor's identity, is tied to it, and delivers its gradient to the node's
//! [`Value`].

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, Weak};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, TensorId};

use super::tie::lock;

/// The gradients on their way to a node.
pub(super) struct Value {
    /// In the order of their arrival. What a pass that failed has left here comes first.
    delivered: Mutex<Vec<Tensor>>,
    /// Whether the node's tensor is `[N, C, H, W]`, where the node itself computes `[N, H, W, C]`.
    channels_last: bool,
}

impl Value {
    pub(super) fn new(channels_last: bool) -> Arc<Self> {
        Arc::new(Self { delivered: Mutex::default(), channels_last })
    }

    /// Takes a gradient of the node's tensor, if there is one, and gives what candle is to add to the token's gradient: how
    /// many it was. So the token's gradient is the number of gradients of this pass.
    pub(super) fn deliver(&self, gradient: Option<Tensor>) -> candle_core::Result<Tensor> {
        let count = if gradient.is_some() { 1f32 } else { 0. };
        if let Some(gradient) = gradient {
            let gradient = if self.channels_last { gradient.permute((0, 2, 3, 1))? } else { gradient };
            lock(&self.delivered).push(gradient);
        }
        Tensor::new(&[count], &Device::Cpu)
    }

    /// The sum of this pass's gradients, given the token's.
    pub(super) fn take(&self, token: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let count = token.to_vec1::<f32>()?[0] as usize;
        let mut delivered = std::mem::take(&mut *lock(&self.delivered));
        let of_this_pass = delivered.split_off(delivered.len().saturating_sub(count));
        of_this_pass.into_iter().map(Ok).reduce(|sum, gradient| sum?.add(&gradient?)).transpose()
    }
}

/// A node's token and value, to be found by its tensor as long as that exists.
pub(super) struct Exposed {
    pub(super) token: Tensor,
    pub(super) value: Arc<Value>,
    id: OnceLock<TensorId>,
}

static EXPOSED: LazyLock<Mutex<HashMap<TensorId, Weak<Exposed>>>> = LazyLock::new(Mutex::default);

impl Exposed {
    /// What belongs to a tensor that a node made.
    pub(super) fn of(tensor: &Tensor) -> Option<Arc<Self>> {
        lock(&EXPOSED).get(&tensor.id()).and_then(Weak::upgrade)
    }
}

impl Drop for Exposed {
    fn drop(&mut self) {
        if let Some(id) = self.id.get() {
            lock(&EXPOSED).remove(id);
        }
    }
}

/// The tensor of a token.
pub(super) fn expose(
    token: Tensor,
    value: Arc<Value>,
    output: CpuStorage,
    shape: Shape,
) -> candle_core::Result<Tensor> {
    let channels_last = value.channels_last;
    let exposed = Arc::new(Exposed { token: token.clone(), value, id: OnceLock::new() });
    let operation = Expose { exposed: exposed.clone(), output: Mutex::new(Some((output, shape))) };
    let mut tensor = token.apply_op1(operation)?;
    if channels_last {
        tensor = tensor.permute((0, 3, 1, 2))?;
    }
    let id = *exposed.id.get_or_init(|| tensor.id());
    lock(&EXPOSED).insert(id, Arc::downgrade(&exposed));
    Ok(tensor)
}

/// Gives a token its tensor, and takes the gradients that candle's own operations give it.
struct Expose {
    exposed: Arc<Exposed>,
    output: Mutex<Option<(CpuStorage, Shape)>>,
}

impl CustomOp1 for Expose {
    fn name(&self) -> &'static str {
        "expose"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        match lock(&self.output).take() {
            Some(output) => Ok(output),
            None => candle_core::bail!("a node is applied once"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // In the node's own order already.
        lock(&self.exposed.value.delivered).push(gradient.clone());
        Tensor::new(&[1f32], &Device::Cpu).map(Some)
    }
}
