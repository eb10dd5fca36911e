//! The passes on contiguous `f32` on one NVIDIA GPU, all parameters in a launch or two (`cuda.cu`), without a word from
//! the GPU to the host.

use std::cell::Cell;

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};

use super::cuda_args::{
    AdamW, Ascent, Combine, Copies, Dots, Factors, OPERANDS, Perturb, PowerSums, Sgd, Tensors, by_table,
    rule, size,
};
use super::mix::Factors as Known;
use super::{AdamWStep, Combination, FoundInf, Mix, Neighborhood, Rule, SgdStep, Slope};
use crate::cuda::{Grid, Module, cuda_device, launch, module, pointer};
use crate::{Error, Result};

const OPERATION: &str = "optimizer step";
const MODULE: Module = module!("optimizer_step");
const THREADS: usize = 256;
const ONE_BLOCK: Grid = Grid { blocks: (1, 1), threads: 1024, shared: 0 };

// SAFETY: plain numbers and device addresses, laid out as cuda.cu's structs of the same names (the tests on the host check
// their sizes and their use).
unsafe impl DeviceRepr for PowerSums {}
// SAFETY: as above.
unsafe impl DeviceRepr for Ascent {}
// SAFETY: as above.
unsafe impl DeviceRepr for Perturb {}
// SAFETY: as above.
unsafe impl DeviceRepr for Dots {}
// SAFETY: as above.
unsafe impl DeviceRepr for Factors {}
// SAFETY: as above.
unsafe impl DeviceRepr for Combine {}
// SAFETY: as above.
unsafe impl DeviceRepr for Sgd {}
// SAFETY: as above.
unsafe impl DeviceRepr for AdamW {}
// SAFETY: as above.
unsafe impl DeviceRepr for Copies {}

fn grid(blocks: usize) -> Grid {
    Grid { blocks: (blocks, 1), threads: THREADS, shared: 0 }
}

/// The device of all of `tensors`, if they are contiguous `f32` on one NVIDIA GPU.
pub(super) fn device_of<'a>(mut tensors: impl Iterator<Item = &'a Tensor>) -> Result<Option<CudaDevice>> {
    let fused = |w: &Tensor| w.device().is_cuda() && w.dtype() == DType::F32 && w.is_contiguous();
    let Some(first) = tensors.next() else { return Ok(None) };
    if !fused(first) || !tensors.all(|w| fused(w) && w.device().same_device(first.device())) {
        return Ok(None);
    }
    cuda_device(OPERATION, first).map(Some)
}

/// A pass's operand: nothing, or where a tensor lies.
fn address(device: &CudaDevice, tensor: Option<&Tensor>) -> Result<u64> {
    tensor.map_or(Ok(0), |tensor| pointer::<f32>(OPERATION, device, tensor))
}

/// The tables of the passes over `tensors`; of each the first operand has its length.
fn tables<const N: usize>(
    device: &CudaDevice,
    tensors: &[[Option<&Tensor>; N]],
) -> Result<Vec<(Tensors, usize)>> {
    let row = |operands: &[Option<&Tensor>; N]| {
        let mut addresses = [0; OPERANDS];
        for (to, operand) in addresses.iter_mut().zip(operands) {
            *to = address(device, *operand)?;
        }
        Ok((addresses, operands[0].map_or(0, Tensor::elem_count)))
    };
    Ok(Tensors::tables(&tensors.iter().map(row).collect::<Result<Vec<_>>>()?))
}

/// Where the pieces of a sum go: `per_block` numbers in `f64` for each block of the tables.
fn partials(on: &Device, tables: &[(Tensors, usize)], per_block: usize) -> Result<Tensor> {
    let count: usize = tables.iter().map(|(_, blocks)| blocks).sum();
    // SAFETY: every block writes its elements before the kernel that adds them up reads them, in the stream's order.
    Ok(unsafe { Tensor::empty((count.max(1), per_block), DType::F64, on)? })
}

/// The norm over all slopes and what the ascent is scaled by, `[2]` in `f64`, computed on the GPU.
pub(super) fn ascent(
    device: &CudaDevice,
    ball: &Neighborhood,
    rho: f64,
    slopes: &[Slope<'_>],
    found_inf: &FoundInf,
) -> Result<Tensor> {
    let on = slopes[0].w.device();
    let operands: Vec<_> = slopes
        .iter()
        .map(|slope| [Some(slope.w.as_tensor()), Some(slope.gradient), slope.memory.map(Var::as_tensor)])
        .collect();
    let tables = tables(device, &operands)?;
    let sizes: Vec<_> = slopes.iter().map(|slope| (size(slope.size), slope.w.elem_count())).collect();
    let count: usize = tables.iter().map(|(_, blocks)| blocks).sum();
    let partials = partials(on, &tables, 1)?;
    // SAFETY: the kernel below writes both elements.
    let ascent = unsafe { Tensor::empty(2, DType::F64, on)? };
    let note = found_inf.on(on)?;
    let partials_at = pointer::<f64>(OPERATION, device, &partials)?;
    let mut first = 0;
    for ((tensors, blocks), sizes) in tables.into_iter().zip(by_table(&sizes)) {
        let partials = partials_at + (first * size_of::<f64>()) as u64;
        let (of_gradient, of_memory) = (ball.gradient, ball.memory);
        let arguments = PowerSums { tensors, partials, q: ball.dual(), of_gradient, of_memory, sizes };
        // SAFETY: the addresses are of live tensors of the lengths in the table, and `partials` has an element for each
        // block from `first` on.
        unsafe { launch(device, &MODULE, "power_sums", grid(blocks), &arguments)? };
        first += blocks;
    }
    let arguments = Ascent {
        partials: partials_at,
        count: count as u64,
        ascent: pointer::<f64>(OPERATION, device, &ascent)?,
        found_inf: pointer::<f64>(OPERATION, device, &note)?,
        rho,
        p: ball.p,
        q: ball.dual(),
        normalize: f64::from(ball.normalize),
        step: found_inf.step(),
    };
    // SAFETY: `count` partial sums were written before, in the stream's order; `ascent` has two elements and the note three.
    unsafe { launch(device, &MODULE, "ascent", ONE_BLOCK, &arguments)? };
    Ok(ascent)
}

/// `ascent` and `found_inf` as the function of that name and [`FoundInf::on`] give them.
pub(super) fn perturb(
    device: &CudaDevice,
    ball: &Neighborhood,
    ascent: &Tensor,
    found_inf: &Tensor,
    parameters: &[(Slope<'_>, &Var)],
) -> Result<()> {
    // The weights stay where they lie, under the name of `old`; the perturbed ones go where `old` lay.
    for (slope, old) in parameters {
        exchange(slope.w, old)?;
    }
    let operands: Vec<_> = parameters
        .iter()
        .map(|(slope, old)| {
            let memory = slope.memory.map(Var::as_tensor);
            [Some(old.as_tensor()), Some(slope.gradient), Some(slope.w.as_tensor()), memory]
        })
        .collect();
    let by_tensor = |value: &dyn Fn(&Slope<'_>) -> f32| -> Vec<_> {
        parameters.iter().map(|(slope, _)| (value(slope), slope.w.elem_count())).collect()
    };
    let sizes = by_table(&by_tensor(&|slope| size(slope.size)));
    let factors = by_table(&by_tensor(&|slope| slope.factor as f32));
    let launched = tables(device, &operands).and_then(|tables| {
        let (ascent, found_inf) =
            (pointer::<f64>(OPERATION, device, ascent)?, pointer::<f64>(OPERATION, device, found_inf)?);
        for ((tensors, blocks), (sizes, factors)) in tables.into_iter().zip(sizes.into_iter().zip(factors)) {
            let power = (ball.dual() - 1.0) as f32;
            let (of_gradient, of_memory) = (ball.gradient as f32, ball.memory as f32);
            let arguments =
                Perturb { tensors, ascent, found_inf, power, of_gradient, of_memory, sizes, factors };
            // SAFETY: the addresses are of live tensors of the lengths in the table, no two of them the same storage
            // (checked by the caller); `ascent` has two elements and `found_inf` three.
            unsafe { launch(device, &MODULE, "perturb", grid(blocks), &arguments)? };
        }
        Ok(())
    });
    if launched.is_err() {
        for (slope, old) in parameters {
            exchange(slope.w, old)?;
        }
    }
    launched
}

/// The pieces of the dot products of all pairs, three for each block, and the note.
pub(super) fn dots(
    device: &CudaDevice,
    pairs: &[(Tensor, Tensor)],
    found_inf: &FoundInf,
) -> Result<(Tensor, Tensor, f64)> {
    let on = pairs[0].0.device();
    let operands: Vec<_> = pairs.iter().map(|(x, y)| [Some(x), Some(y)]).collect();
    let tables = tables(device, &operands)?;
    let partials = partials(on, &tables, 3)?;
    let mut at = pointer::<f64>(OPERATION, device, &partials)?;
    for (tensors, blocks) in tables {
        // SAFETY: the addresses are of live tensors of the lengths in the table, and from `partials` on there are three
        // elements for each block.
        unsafe { launch(device, &MODULE, "dots", grid(blocks), &Dots { tensors, partials: at })? };
        at += (3 * blocks * size_of::<f64>()) as u64;
    }
    Ok((partials, found_inf.on(on)?, found_inf.step()))
}

/// What a rule makes of the pieces that [`dots`] gave, `[4]` in `f64`: the factors of x and y, the norm and the cosine.
pub(super) fn factors(partials: &Tensor, note: &Tensor, step: f64, of: Rule, clip: f64) -> Result<Tensor> {
    let device = cuda_device(OPERATION, partials)?;
    // SAFETY: the kernel below writes all elements.
    let factors = unsafe { Tensor::empty(4, DType::F64, partials.device())? };
    let (alpha, beta, rule) = rule(of);
    let arguments = Factors {
        partials: pointer::<f64>(OPERATION, &device, partials)?,
        count: partials.dim(0)? as u64,
        factors: pointer::<f64>(OPERATION, &device, &factors)?,
        found_inf: pointer::<f64>(OPERATION, &device, note)?,
        alpha,
        beta,
        clip,
        step,
        rule,
    };
    // SAFETY: all `count` rows of three were written before, in the stream's order; the note has three elements.
    unsafe { launch(&device, &MODULE, "factors", ONE_BLOCK, &arguments)? };
    Ok(factors)
}

pub(super) fn combine(
    device: &CudaDevice,
    combination: &Combination<'_>,
    rows: &[(&Var, Tensor, Tensor)],
    found_inf: &FoundInf,
) -> Result<()> {
    let factors = match combination {
        Combination::Mixed(Mix { factors: Known::OnGpu(factors), .. }, _)
        | Combination::Plus(Mix { factors: Known::OnGpu(factors), .. }, _) => {
            pointer::<f64>(OPERATION, device, factors)?
        }
        _ => 0,
    };
    let found_inf = found_inf.on(rows[0].0.device())?;
    let found_inf = pointer::<f64>(OPERATION, device, &found_inf)?;
    let operands: Vec<_> = rows.iter().map(|(v, x, y)| [Some(v.as_tensor()), Some(x), Some(y)]).collect();
    for (tensors, blocks) in tables(device, &operands)? {
        let arguments = Combine::new(tensors, factors, found_inf, combination);
        // SAFETY: the addresses are of live tensors of the lengths in the table, and no v shares its memory with an x or y
        // (checked by the caller); there are four factors or none, and the note, which is kept alive by its owner, has three
        // elements.
        unsafe { launch(device, &MODULE, "combine", grid(blocks), &arguments)? };
    }
    Ok(())
}

pub(super) fn sgd(
    device: &CudaDevice,
    parameters: &[(&Var, Tensor, Option<&Var>)],
    step: &SgdStep,
) -> Result<()> {
    let found_inf = FoundInf::guarding();
    for has_buffer in [false, true] {
        let operands: Vec<_> = parameters
            .iter()
            .filter(|(_, _, buffer)| buffer.is_some() == has_buffer)
            .map(|(w, gradient, buffer)| [Some(w.as_tensor()), Some(gradient), buffer.map(Var::as_tensor)])
            .collect();
        for (tensors, blocks) in tables(device, &operands)? {
            let arguments = Sgd::new(tensors, note(device, found_inf.as_ref())?, has_buffer, step);
            // SAFETY: the addresses are of live tensors of the lengths in the table, no two of them the same storage
            // (checked by the caller).
            unsafe { launch(device, &MODULE, "sgd", grid(blocks), &arguments)? };
        }
    }
    Ok(())
}

pub(super) fn adamw(
    device: &CudaDevice,
    parameters: &[(&Var, Tensor, &Var, &Var)],
    step: &AdamWStep,
) -> Result<()> {
    let found_inf = FoundInf::guarding();
    let operands: Vec<_> = parameters
        .iter()
        .map(|(w, gradient, m, v)| {
            [Some(w.as_tensor()), Some(gradient), Some(m.as_tensor()), Some(v.as_tensor())]
        })
        .collect();
    for (tensors, blocks) in tables(device, &operands)? {
        let arguments = AdamW::new(tensors, note(device, found_inf.as_ref())?, step);
        // SAFETY: as in `sgd`.
        unsafe { launch(device, &MODULE, "adamw", grid(blocks), &arguments)? };
    }
    Ok(())
}

/// Copies those of `pairs` (from, to) that are of whole words on one GPU, and returns the others.
pub(super) fn copy<'a>(
    pairs: &[(&'a Var, &'a Var)],
    found_inf: &FoundInf,
) -> Result<Vec<(&'a Var, &'a Var)>> {
    let first = pairs.iter().map(|(from, _)| from).find(|from| from.device().is_cuda());
    let Some(first) = first else { return Ok(pairs.to_vec()) };
    let device = cuda_device(OPERATION, first)?;
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    for &(from, to) in pairs {
        let alike = from.shape() == to.shape()
            && from.dtype() == to.dtype()
            && [from, to].iter().all(|var| var.device().same_device(first.device()) && var.is_contiguous());
        let address = match from.dtype() {
            DType::F32 => pointer::<f32>,
            DType::U32 => pointer::<u32>,
            DType::F64 => pointer::<f64>,
            DType::I64 => pointer::<i64>,
            _ => {
                others.push((from, to));
                continue;
            }
        };
        if !alike {
            others.push((from, to));
            continue;
        }
        let words = from.elem_count() * from.dtype().size_in_bytes() / size_of::<f32>();
        rows.push(([address(OPERATION, &device, from)?, address(OPERATION, &device, to)?, 0, 0], words));
    }
    let found_inf = pointer::<f64>(OPERATION, &device, &found_inf.on(first.device())?)?;
    for (tensors, blocks) in Tensors::tables(&rows) {
        // SAFETY: the addresses are of live tensors of at least as many words as the table says, all of them variables
        // with storages of their own; `found_inf` has two elements and is kept alive by the note.
        unsafe { launch(&device, &MODULE, "copy", grid(blocks), &Copies { tensors, found_inf })? };
    }
    Ok(others)
}

/// Where the note lies that a step heeds: nowhere if there is none, or none on this device.
fn note(device: &CudaDevice, found_inf: Option<&Tensor>) -> Result<u64> {
    found_inf.map_or(Ok(0), |note| pointer::<f64>(OPERATION, device, note))
}

/// Exchanges the storages of two variables, each the whole of its own.
pub(super) fn exchange(one: &Var, other: &Var) -> Result<()> {
    /// candle lends a storage exclusively to an in-place operation alone, by way of `&self`.
    struct Lend<F>(Cell<Option<F>>);

    impl<F: FnOnce(&mut CudaStorage) -> candle_core::Result<()>> InplaceOp1 for Lend<F> {
        fn name(&self) -> &'static str {
            OPERATION
        }

        fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
            candle_core::bail!("{OPERATION}: expected variables on one GPU")
        }

        fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> candle_core::Result<()> {
            self.0.take().map_or(Ok(()), |f| f(storage))
        }
    }

    if one.layout().start_offset() != 0 || other.layout().start_offset() != 0 {
        let found = format!(
            "views that start at {} and {}",
            one.layout().start_offset(),
            other.layout().start_offset()
        );
        return Err(Error::Unsupported {
            operation: OPERATION,
            expected: "variables that own their storage",
            found,
        });
    }
    let swap = |a: &mut CudaStorage| {
        other.inplace_op1(&Lend(Cell::new(Some(|b: &mut CudaStorage| {
            std::mem::swap(a, b);
            Ok(())
        }))))
    };
    Ok(one.inplace_op1(&Lend(Cell::new(Some(swap))))?)
}
