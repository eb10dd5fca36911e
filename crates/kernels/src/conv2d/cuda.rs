//! Convolutions on CUDA: cuDNN's plans, searched once for each shape and kept.
//!
//! All three products are operations of cuDNN's graph interface over tensors `x` `[N, C, H, W]`, `w` `[O, C, R, S]` and
//! `y` `[N, O, H', W']` whose strides are those of channels-last memory (the filter's then is `[O, R, S, C]`), in one type,
//! multiplied and added up in `f32`: y = alpha conv(x, w) + beta y with alpha 1 and beta 0, so that the output's memory may
//! hold anything. Channels are padded to multiples of eight, whence 16-byte alignment, which the tensor cores' kernels ask.
//!
//! For a new shape, cuDNN's heuristics name engine configurations, best first. Kept are those that
//!
//! - are deterministic (no note `NONDETERMINISTIC`: no atomic additions in an order of chance);
//! - neither narrow their inputs nor add up in less than `f32` (`DOWN_CONVERT_INPUTS`, `REDUCED_PRECISION_REDUCTION`);
//! - in [`Precision::F32`] do without tensor cores, which take `f32` as TF32 (`TENSOR_CORE`);
//! - want no more workspace than [`MOST_WORKSPACE`].
//!
//! The first few of them are timed on the operands at hand, and the fastest becomes the shape's plan. Timing waits for the
//! device; later calls do not. Two runs may choose differently where two plans are about as fast, and then differ in
//! rounding; within a run every call of a shape is the same. Where runs shall agree ([`Choice::Ranked`]), nothing is timed
//! and the best by the heuristics is taken that runs.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::sys;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use sys::cudnnBackendAttributeName_t as Attribute;
use sys::cudnnBackendAttributeType_t as Kind;
use sys::cudnnBackendDescriptorType_t as DescriptorType;
use sys::cudnnBackendHeurMode_t as Heuristics;
use sys::cudnnBackendNumericalNote_t as Note;

use super::Conv2dShape;
use crate::cuda::cudnn::{Descriptor, Failure, Handle, Pointer};
use crate::cuda::{Block, Memory};
use crate::{Precision, Result};

/// The largest workspace a plan may want, in bytes.
const MOST_WORKSPACE: i64 = 256 << 20;
/// How many plans are timed for a shape, and how often each.
const CANDIDATES: usize = 10;
const TIMINGS: usize = 3;
/// The names that a plan's tensors have in the variant pack.
const UIDS: [i64; 3] = [1, 2, 3];

/// Which of a shape's suitable plans is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The fastest of the first few.
    Timed,
    /// The one that cuDNN ranks first: the same in every run on one kind of GPU with one version of cuDNN.
    Ranked,
}

/// One of a convolution's products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ConvolutionProduct {
    /// y of x and w.
    Forward,
    /// dx of dy and w.
    BackwardInput,
    /// dw of x and dy.
    BackwardWeight,
}

/// The operands of a product: the memory of x or dx, w or dw, and y or dy.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) x: u64,
    pub(crate) w: u64,
    pub(crate) y: u64,
}

/// The plans of one precision on one device.
pub(crate) struct Convolutions {
    /// Dropped before the handle.
    plans: HashMap<(ConvolutionProduct, Conv2dShape), Plan>,
    handle: Handle,
    precision: Precision,
    choice: Choice,
    memory: Arc<Memory>,
    /// As large as the largest that a plan so far has wanted. One suffices: work is in the stream's order.
    workspace: Option<Block>,
}

/// An execution plan, and the bytes of workspace it wants.
struct Plan {
    plan: Descriptor,
    workspace: usize,
}

impl Convolutions {
    pub(crate) fn new(handle: Handle, precision: Precision, memory: Arc<Memory>) -> Self {
        Self { plans: HashMap::new(), handle, precision, choice: Choice::Timed, memory, workspace: None }
    }

    /// Chooses anew, and so from now on.
    pub(crate) fn choose(&mut self, choice: Choice) {
        if self.choice != choice {
            self.choice = choice;
            self.plans.clear();
        }
    }

    /// Computes a product of the shape, whose channels are multiples of eight.
    ///
    /// # Safety
    /// The operands are on the device, as long as the shape says, in the precision's type, aligned to 16 bytes and disjoint.
    pub(crate) unsafe fn run(
        &mut self,
        product: ConvolutionProduct,
        shape: &Conv2dShape,
        operands: Operands,
    ) -> Result<()> {
        let precision = self.precision;
        let describe = |failure: Failure| failure.of(format!("{product:?} of {shape:?} in {precision}"));
        self.handle.bind().map_err(describe)?;
        if !self.plans.contains_key(&(product, *shape)) {
            // SAFETY: the caller's promise.
            let plan = unsafe { self.search(product, shape, operands) };
            self.plans.insert((product, *shape), plan.map_err(describe)?);
        }
        let plan = &self.plans[&(product, *shape)];
        let workspace = workspace(&self.memory, &mut self.workspace, plan.workspace)?;
        // SAFETY: the caller's promise, and a workspace of the plan's size.
        unsafe { execute(&self.handle, plan, operands, workspace) }.map_err(describe)
    }

    /// The suitable plan of choice.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn search(
        &mut self,
        product: ConvolutionProduct,
        shape: &Conv2dShape,
        operands: Operands,
    ) -> std::result::Result<Plan, Failure> {
        let graph = graph(&self.handle, product, shape, self.precision)?;
        let mut plans = Vec::new();
        for mode in [Heuristics::CUDNN_HEUR_MODE_A, Heuristics::CUDNN_HEUR_MODE_FALLBACK] {
            // A mode that has nothing to offer says so by failing.
            for configuration in configurations(&graph, mode).unwrap_or_default() {
                if plans.len() < CANDIDATES && suits(&configuration, self.precision)? {
                    // A configuration may turn out not to be supported on this device.
                    plans.extend(
                        plan(&configuration).ok().filter(|plan| plan.workspace as i64 <= MOST_WORKSPACE),
                    );
                }
            }
            if !plans.is_empty() {
                break;
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match self.choice {
                Choice::Timed => self.fastest(plans, operands),
                Choice::Ranked => self.first(plans, operands),
            }
        }
    }

    /// The plan that takes the least time.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn fastest(&mut self, plans: Vec<Plan>, operands: Operands) -> std::result::Result<Plan, Failure> {
        let (mut fastest, mut last) = (None::<(f32, Plan)>, no_plan());
        for plan in plans {
            // SAFETY: the caller's promise.
            match unsafe { self.time(&plan, operands) } {
                Ok(time) if fastest.as_ref().is_none_or(|(best, _)| time < *best) => {
                    fastest = Some((time, plan))
                }
                Ok(_) => {}
                Err(failure) => last = failure,
            }
        }
        fastest.map(|(_, plan)| plan).ok_or(last)
    }

    /// The first plan that runs.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn first(&mut self, plans: Vec<Plan>, operands: Operands) -> std::result::Result<Plan, Failure> {
        let mut last = no_plan();
        for plan in plans {
            // SAFETY: the caller's promise.
            match unsafe { self.run_once(&plan, operands) } {
                Ok(()) => return Ok(plan),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// The least time that a plan took, in milliseconds.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn time(&mut self, plan: &Plan, operands: Operands) -> std::result::Result<f32, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
        let stream = self.handle.stream.clone();
        let event =
            || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(|error| failed(&error));
        let mut least = f32::INFINITY;
        // The first run, which may load the kernel, does not count.
        for run in 0..=TIMINGS {
            let begin = event()?;
            // SAFETY: the caller's promise. Every run writes the same.
            unsafe { self.run_once(plan, operands) }?;
            let time = begin.elapsed_ms(&event()?).map_err(|error| failed(&error))?;
            least = if run == 0 { least } else { least.min(time) };
        }
        Ok(least)
    }

    /// Runs a plan that is not kept yet.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn run_once(&mut self, plan: &Plan, operands: Operands) -> std::result::Result<(), Failure> {
        let workspace = workspace(&self.memory, &mut self.workspace, plan.workspace);
        let workspace = workspace.map_err(|error| Failure::new(error.to_string()))?;
        // SAFETY: the caller's promise, and a workspace of the plan's size.
        unsafe { execute(&self.handle, plan, operands, workspace) }
    }
}

fn no_plan() -> Failure {
    Failure::new("no deterministic engine for it in this precision")
}

/// The address of a workspace of so many bytes, 0 for none; grown where the one there is is smaller.
fn workspace(memory: &Arc<Memory>, workspace: &mut Option<Block>, bytes: usize) -> Result<u64> {
    if bytes == 0 {
        return Ok(0);
    }
    if workspace.as_ref().is_none_or(|block| block.bytes() < bytes) {
        *workspace = None; // what it held can serve the larger one
        *workspace = Some(memory.take("a convolution's workspace", bytes)?);
    }
    Ok(workspace.as_ref().map_or(0, Block::address))
}

/// Runs a plan.
///
/// # Safety
/// The operands are as [`Convolutions::run`] wants them, and the workspace is as large as the plan's.
unsafe fn execute(
    handle: &Handle,
    plan: &Plan,
    operands: Operands,
    workspace: u64,
) -> std::result::Result<(), Failure> {
    let pointers = [operands.x, operands.w, operands.y].map(Pointer);
    let pack = Descriptor::new(DescriptorType::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
        .with(Attribute::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &pointers)?
        .with(Attribute::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &UIDS)?
        .with(Attribute::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[Pointer(workspace)])?
        .finalize()?;
    // SAFETY: the caller's promise.
    unsafe { handle.execute(&plan.plan, &pack) }
}

/// The operation graph of one product.
fn graph(
    handle: &Handle,
    product: ConvolutionProduct,
    shape: &Conv2dShape,
    precision: Precision,
) -> std::result::Result<Descriptor, Failure> {
    let Conv2dShape { batch, height, width, in_channels, out_channels, kernel, .. } = *shape;
    let data = match precision {
        Precision::F32 | Precision::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    };
    // Dimensions [N, C, H, W], whichever way they lie in memory: here with C innermost.
    let tensor = |uid: i64, [n, c, h, w]: [usize; 4]| {
        Descriptor::new(DescriptorType::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .with(Attribute::CUDNN_ATTR_TENSOR_DATA_TYPE, &[data])?
            .with(Attribute::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w].map(|size| size as i64))?
            .with(
                Attribute::CUDNN_ATTR_TENSOR_STRIDES,
                &[h * w * c, 1, w * c, c].map(|stride| stride as i64),
            )?
            .with(Attribute::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[uid])?
            .with(Attribute::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16i64])?
            .finalize()
    };
    let x = tensor(UIDS[0], [batch, in_channels, height, width])?;
    let w = tensor(UIDS[1], [out_channels, in_channels, kernel, kernel])?;
    let y = tensor(UIDS[2], [batch, out_channels, shape.out_height(), shape.out_width()])?;
    let twice = |value: usize| [value as i64; 2];
    let convolution = Descriptor::new(DescriptorType::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .with(Attribute::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[sys::cudnnDataType_t::CUDNN_DATA_FLOAT])?
        .with(
            Attribute::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
            &[sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION],
        )?
        .with(Attribute::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2i64])?
        .with(Attribute::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &twice(shape.padding))?
        .with(Attribute::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &twice(shape.padding))?
        .with(Attribute::CUDNN_ATTR_CONVOLUTION_DILATIONS, &twice(shape.dilation))?
        .with(Attribute::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &twice(shape.stride))?
        .finalize()?;
    let (kind, names) = match product {
        ConvolutionProduct::Forward => (
            DescriptorType::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            [
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            ],
        ),
        ConvolutionProduct::BackwardInput => (
            DescriptorType::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            [
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            ],
        ),
        ConvolutionProduct::BackwardWeight => (
            DescriptorType::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            [
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            ],
        ),
    };
    let [of_x, of_w, of_y, of_convolution, alpha, beta] = names;
    let operation = Descriptor::new(kind)?
        .with_descriptor(of_x, &x)?
        .with_descriptor(of_w, &w)?
        .with_descriptor(of_y, &y)?
        .with_descriptor(of_convolution, &convolution)?
        .with(alpha, &[1f32])?
        .with(beta, &[0f32])?
        .finalize()?;
    Descriptor::new(DescriptorType::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .with_descriptor(Attribute::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operation)?
        .with(Attribute::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle.raw()])?
        .finalize()
}

/// The engine configurations that the heuristics name, best first.
fn configurations(graph: &Descriptor, mode: Heuristics) -> std::result::Result<Vec<Descriptor>, Failure> {
    let heuristics = Descriptor::new(DescriptorType::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .with_descriptor(Attribute::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)?
        .with(Attribute::CUDNN_ATTR_ENGINEHEUR_MODE, &[mode])?
        .finalize()?;
    let results = Attribute::CUDNN_ATTR_ENGINEHEUR_RESULTS;
    let count = heuristics.count(results)?;
    heuristics.descriptors(results, DescriptorType::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, count)
}

/// Whether the engine of a configuration keeps what this project promises; see the top of this file.
fn suits(configuration: &Descriptor, precision: Precision) -> std::result::Result<bool, Failure> {
    let engines = configuration.descriptors(
        Attribute::CUDNN_ATTR_ENGINECFG_ENGINE,
        DescriptorType::CUDNN_BACKEND_ENGINE_DESCRIPTOR,
        1,
    )?;
    let Some(engine) = engines.first() else { return Ok(false) };
    let notes =
        engine.numbers(Attribute::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Kind::CUDNN_TYPE_NUMERICAL_NOTE)?;
    let has = |note: Note| notes.contains(&(note as u32));
    let unwanted = has(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
        || has(Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
        || has(Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION)
        || (precision == Precision::F32 && has(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
    Ok(!unwanted)
}

/// The plan of a configuration. (The handle that a plan once took is deprecated, and not needed in cuDNN 9.)
fn plan(configuration: &Descriptor) -> std::result::Result<Plan, Failure> {
    let plan = Descriptor::new(DescriptorType::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
        .with_descriptor(Attribute::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration)?
        .finalize()?;
    let workspace = plan.integer(Attribute::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    let workspace =
        usize::try_from(workspace).map_err(|_| Failure::new(format!("a workspace of {workspace} bytes")))?;
    Ok(Plan { plan, workspace })
}
