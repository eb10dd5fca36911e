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

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct PowerSums {
    pub(super) tensors: Tensors,
    pub(super) partials: u64,
    pub(super) q: f64,
    pub(super) adaptive: u32,
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
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Perturb {
    pub(super) tensors: Tensors,
    pub(super) ascent: u64,
    pub(super) found_inf: u64,
    pub(super) power: f32,
    pub(super) adaptive: u32,
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
