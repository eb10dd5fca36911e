//! Nodes of any number of inputs, in graphs of candle's.

use candle_core::{CpuStorage, Device, Result, Storage, Var};

use super::*;

/// y = sum_i (i + 1) w_i, from any number of vectors of two.
struct Weighted(usize, bool);

impl Backward for Weighted {
    fn name(&self) -> &'static str {
        "weighted"
    }

    fn backward(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        assert_eq!(needed.len(), self.0);
        let weighted =
            |(i, needed): (usize, &bool)| needed.then(|| grad.affine(i as f64 + 1.0, 0.0)).transpose();
        needed.iter().enumerate().map(weighted).collect()
    }

    fn hands_over_variables(&self) -> bool {
        self.1
    }
}

fn weighted(inputs: &[&Tensor], hands_over: bool) -> Result<Tensor> {
    let mut sum = vec![0f32; 2];
    for (i, input) in inputs.iter().enumerate() {
        let values = input.to_vec1::<f32>()?;
        (0..2).for_each(|j| sum[j] += (i + 1) as f32 * values[j]);
    }
    node(Storage::Cpu(CpuStorage::F32(sum)), 2, inputs, Weighted(inputs.len(), hands_over))
}

/// A network with a node on top of a candle operation, a shared variable and a constant among the inputs.
fn loss(vars: &[Var], constant: &Tensor, hands_over: bool) -> Result<Tensor> {
    let hidden = (vars[0].as_tensor() * 3.0)?;
    let mut inputs: Vec<&Tensor> = vars.iter().map(Var::as_tensor).collect();
    inputs.extend([&hidden, constant]);
    let first = weighted(&inputs, hands_over)?;
    let second = weighted(&[&first, vars[1].as_tensor()], hands_over)?;
    (second.sqr()? + vars[2].as_tensor().sqr()?)?.sum_all()
}

fn plain_loss(vars: &[Var], constant: &Tensor) -> Result<Tensor> {
    let hidden = (vars[0].as_tensor() * 3.0)?;
    let mut first = constant.affine(vars.len() as f64 + 2.0, 0.0)?;
    for (i, var) in vars.iter().map(Var::as_tensor).chain([&hidden]).enumerate() {
        first = (first + var.affine(i as f64 + 1.0, 0.0)?)?;
    }
    let second = (first + vars[1].affine(2.0, 0.0)?)?;
    (second.sqr()? + vars[2].as_tensor().sqr()?)?.sum_all()
}

#[test]
fn both_backward_functions_agree_with_plain_candle() -> Result<()> {
    for count in 3..14 {
        let var = |i| Var::new(&[i as f32, 0.5 - i as f32], &Device::Cpu);
        let vars = (0..count).map(var).collect::<Result<Vec<_>>>()?;
        let constant = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
        let expected = plain_loss(&vars, &constant)?.backward()?;
        let only_handed_over = loss(&vars, &constant, true)?;
        let loss = loss(&vars, &constant, false)?;
        for _twice in 0..2 {
            let ways = [backward(&loss)?, loss.backward()?, backward(&only_handed_over)?];
            for (var, way) in vars.iter().flat_map(|var| ways.iter().map(move |way| (var, way))) {
                let expected = expected.get(var).unwrap().to_vec1::<f32>()?;
                assert_eq!(way.get(var).unwrap().to_vec1::<f32>()?, expected);
            }
        }
        let error = only_handed_over.backward().unwrap_err().to_string();
        assert!(error.contains("call it instead of loss.backward()"), "{error}");
    }
    Ok(())
}

#[test]
fn a_node_of_constants_tracks_nothing() -> Result<()> {
    let constant = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
    let sum = weighted(&[&constant, &constant], false)?;
    assert!(!sum.track_op());
    assert_eq!(sum.to_vec1::<f32>()?, [3., 6.]);
    Ok(())
}

#[test]
fn a_wrong_length_is_an_error() {
    assert!(node(Storage::Cpu(CpuStorage::F32(vec![0.0; 3])), 2, &[], Weighted(0, false)).is_err());
}
