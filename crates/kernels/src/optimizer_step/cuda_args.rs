//! What the kernels of `cuda.cu` take, as they lay it out.

/// Tensors of one launch.
pub(super) const TENSORS: usize = 64;
pub(super) const OPERANDS: usize = 4;
/// Elements of a block.
pub(super) const CHUNK: usize = 16_384;

/// Tensors that go through a pass together. Pointers are device addresses; an operand that a pass has not is null.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Tensors {
    operands: [[u64; TENSORS]; OPERANDS],
    lens: [u64; TENSORS],
    first_blocks: [u32; TENSORS + 1],
    count: u32,
}

impl Tensors {
    /// Tables of all tensors, each given by its operands' addresses and its length, and the number of blocks of each.
    pub(super) fn tables(tensors: &[([u64; OPERANDS], usize)]) -> Vec<(Self, usize)> {
        let tensors: Vec<_> = tensors.iter().filter(|(_, len)| *len > 0).collect();
        let table = |tensors: &[&([u64; OPERANDS], usize)]| {
            let mut table = Self {
                operands: [[0; TENSORS]; OPERANDS],
                lens: [0; TENSORS],
                first_blocks: [0; TENSORS + 1],
                count: tensors.len() as u32,
            };
            let mut blocks = 0;
            for (index, (operands, len)) in tensors.iter().enumerate() {
                for (row, operand) in table.operands.iter_mut().zip(operands) {
                    row[index] = *operand;
                }
                table.lens[index] = *len as u64;
                blocks += len.div_ceil(CHUNK);
                // The launch refuses a grid that does not fit.
                table.first_blocks[index + 1] = u32::try_from(blocks).unwrap_or(u32::MAX);
            }
            (table, blocks)
        };
        tensors.chunks(TENSORS).map(table).collect()
    }
}

/// A number for each tensor of each table that [`Tensors::tables`] makes of tensors of these lengths.
pub(super) fn by_table(values: &[(f32, usize)]) -> Vec<[f32; TENSORS]> {
    let values: Vec<_> = values.iter().filter(|(_, len)| *len > 0).map(|(value, _)| *value).collect();
    let table = |values: &[f32]| std::array::from_fn(|index| values.get(index).copied().unwrap_or(0.0));
    values.chunks(TENSORS).map(table).collect()
}

/// T as the kernels take it: what is added to |w|, or the negative of a constant.
pub(super) fn size(size: super::Size) -> f32 {
    match size {
        super::Size::Constant(t) => -(t as f32),
        super::Size::Weights { eta } => eta as f32,
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct PowerSums {
    pub(super) tensors: Tensors,
    pub(super) partials: u64,
    pub(super) q: f64,
    pub(super) of_gradient: f64,
    pub(super) of_memory: f64,
    pub(super) sizes: [f32; TENSORS],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Ascent {
    pub(super) partials: u64,
    pub(super) count: u64,
    pub(super) ascent: u64,
    pub(super) found_inf: u64,
    pub(super) rho: f64,
    pub(super) p: f64,
    pub(super) q: f64,
    pub(super) normalize: f64,
    pub(super) step: f64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Perturb {
    pub(super) tensors: Tensors,
    pub(super) ascent: u64,
    pub(super) found_inf: u64,
    pub(super) power: f32,
    pub(super) of_gradient: f32,
    pub(super) of_memory: f32,
    pub(super) sizes: [f32; TENSORS],
    pub(super) factors: [f32; TENSORS],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Dots {
    pub(super) tensors: Tensors,
    pub(super) partials: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Factors {
    pub(super) partials: u64,
    pub(super) count: u64,
    pub(super) factors: u64,
    pub(super) found_inf: u64,
    pub(super) alpha: f64,
    pub(super) beta: f64,
    pub(super) clip: f64,
    pub(super) step: f64,
    pub(super) rule: u32,
}

/// A rule's numbers and its kind, as the kernel takes them.
pub(super) fn rule(rule: super::Rule) -> (f64, f64, u32) {
    match rule {
        super::Rule::Fixed(x, y) => (x, y, 0),
        super::Rule::SurrogateGap { alpha } => (alpha, 0.0, 1),
        super::Rule::Reuse { alpha } => (alpha, 0.0, 2),
        super::Rule::Beside => (0.0, 0.0, 3),
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Combine {
    pub(super) tensors: Tensors,
    pub(super) factors: u64,
    pub(super) found_inf: u64,
    pub(super) of_x: f32,
    pub(super) of_y: f32,
    pub(super) kind: u32,
}

impl Combine {
    /// `factors` is where those lie that a GPU has, or null.
    pub(super) fn new(
        tensors: Tensors,
        factors: u64,
        found_inf: u64,
        combination: &super::Combination<'_>,
    ) -> Self {
        use super::Combination::{Mixed, Plus, PlusScaled, Scaled, Toward};
        let (share, kind) = match combination {
            Mixed(_, share) => (share, 0),
            Plus(_, share) => (share, 1),
            Scaled(share) => (share, 2),
            PlusScaled(share) => (share, 3),
            Toward(share) => (share, 4),
        };
        let [of_x, of_y] = combination.factors_here().unwrap_or([*share; 2]).map(|factor| factor as f32);
        Self { tensors, factors, found_inf, of_x, of_y, kind }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Sgd {
    pub(super) tensors: Tensors,
    pub(super) found_inf: u64,
    pub(super) rate: f32,
    pub(super) momentum: f32,
    pub(super) fresh: f32,
    pub(super) decay: f32,
    pub(super) nesterov: u32,
    pub(super) has_buffer: u32,
}

impl Sgd {
    pub(super) fn new(tensors: Tensors, found_inf: u64, has_buffer: bool, step: &super::SgdStep) -> Self {
        Self {
            tensors,
            found_inf,
            rate: step.learning_rate as f32,
            momentum: step.momentum as f32,
            fresh: (1.0 - step.dampening) as f32,
            decay: step.weight_decay as f32,
            nesterov: step.nesterov.into(),
            has_buffer: has_buffer.into(),
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct AdamW {
    pub(super) tensors: Tensors,
    pub(super) found_inf: u64,
    pub(super) keep: f32,
    pub(super) fresh1: f32,
    pub(super) beta2: f32,
    pub(super) fresh2: f32,
    pub(super) rate: f32,
    pub(super) root: f32,
    pub(super) epsilon: f32,
}

impl AdamW {
    pub(super) fn new(tensors: Tensors, found_inf: u64, step: &super::AdamWStep) -> Self {
        let (rate, root) = step.corrections();
        Self {
            tensors,
            found_inf,
            keep: (1.0 - step.learning_rate * step.weight_decay) as f32,
            fresh1: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            fresh2: (1.0 - step.beta2) as f32,
            rate: rate as f32,
            root: root as f32,
            epsilon: step.epsilon as f32,
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Copies {
    pub(super) tensors: Tensors,
    pub(super) found_inf: u64,
}
