//! A network from outside of the workspace's own: torchvision's ResNet-18 on our layers, against what torchvision computes in
//! float64 (testdata/resnet18/make.py).

#[path = "../examples/support/resnet18.rs"]
mod resnet18;

use resnet18::ResNet18;
use wrn_sam::candle::{DType, Device, Tensor, safetensors};
use wrn_sam::kernels::{backward, backward_to};
use wrn_sam::models::{Kind, Mode, Parameters};

const CLASSES: usize = 10;

/// Uniform in [-0.5, 0.5): the formula of testdata/resnet18/make.py.
fn numbers(seed: u64, dims: &[usize]) -> Tensor {
    let number = |i: u64| {
        let x = (i + seed * 7919 + 1) * 2_654_435_761 % (1 << 32);
        let x = (x ^ (x >> 15)) * 2_246_822_519 % (1 << 32);
        (x ^ (x >> 13)) as f64 / 4_294_967_296.0 - 0.5
    };
    let len: usize = dims.iter().product();
    Tensor::from_vec((0..len as u64).map(number).collect::<Vec<_>>(), dims, &Device::Cpu).expect("numbers")
}

fn network() -> (ResNet18, Parameters) {
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    let model = ResNet18::new(CLASSES, parameters.var_builder()).expect("a network");
    for (seed, (name, var)) in parameters.named_trainable().into_iter().enumerate() {
        let dims = var.dims();
        let scale =
            if dims.len() > 1 { (24.0 / dims[1..].iter().product::<usize>() as f64).sqrt() } else { 0.4 };
        let shift = if dims.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values =
            numbers(seed as u64, dims).affine(scale, shift).and_then(|values| values.to_dtype(DType::F32));
        var.set(&values.expect("values")).expect("its shape");
    }
    (model, parameters)
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().and_then(|t| t.to_dtype(DType::F64)?.to_vec1()).expect("numbers")
}

/// The largest difference, relative to the largest expected value.
#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f64, |largest, value| largest.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= bound * largest, "{what}: {found}, not {expected}");
    }
}

#[test]
fn it_computes_what_torchvision_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/resnet18/golden.safetensors");
    let golden = safetensors::load(path, &Device::Cpu).expect("the fixture");
    let (model, parameters) = network();
    let single = |tensor: Tensor| tensor.to_dtype(DType::F32).expect("f32");
    let images = single((numbers(1000, &[4, 3, 64, 64]) * 4.0).expect("images"));
    let weights = single(numbers(1001, &[4, CLASSES]));

    let logits = model.forward(&images, Mode::Train).expect("logits");
    close("logits", &floats(&logits), &floats(&golden["train"]), 1e-4);
    let loss = (&logits * weights).and_then(|product| product.sum_all()).expect("a loss");
    let gradients = backward(&loss).expect("gradients");
    let expected = golden["gradients"].to_vec2::<f64>().expect("rows");
    assert_eq!(expected.len(), parameters.trainable().len());
    for (seed, ((name, var), expected)) in parameters.named_trainable().into_iter().zip(expected).enumerate()
    {
        let gradient = floats(gradients.get(&var).expect("a gradient"));
        let other = floats(&numbers(500 + seed as u64, var.dims()));
        let norm = gradient.iter().map(|value| value * value).sum::<f64>().sqrt();
        let product: f64 = gradient.iter().zip(&other).map(|(gradient, other)| gradient * other).sum();
        // A ReLU or a maximum may turn through rounding. The product is bounded by both norms.
        let bound = 2e-3 * expected[0];
        assert!((norm - expected[0]).abs() < bound, "{name}: {norm}, not {}", expected[0]);
        assert!((product - expected[1]).abs() < bound, "{name}: {product}, not {}", expected[1]);
    }

    let running = parameters
        .named()
        .into_iter()
        .filter(|(name, kind, _)| *kind == Kind::Buffer && name.contains("running"));
    let sums: Vec<f64> = running.map(|(.., var)| floats(&var).iter().sum()).collect();
    close("running statistics", &sums, &floats(&golden["running"]), 1e-4);
    let evaluated = model.forward(&images, Mode::Eval).expect("logits");
    close("evaluation", &floats(&evaluated), &floats(&golden["eval"]), 1e-4);
}

#[test]
fn its_gradients_can_be_asked_for_in_part() {
    let (model, parameters) = network();
    let images = numbers(1000, &[2, 3, 32, 32]).to_dtype(DType::F32).expect("f32");
    let loss =
        model.forward(&images, Mode::EvalWithGradients).and_then(|y| y.sqr()?.sum_all()).expect("a loss");
    let all = backward(&loss).expect("gradients");
    let norms = parameters.named_trainable().into_iter().filter(|(_, var)| var.rank() == 1);
    let norms: Vec<_> = norms.map(|(_, var)| var).collect();
    let found = backward_to(&loss, &norms).expect("gradients");
    for (name, var) in parameters.named_trainable() {
        match found.get(&var) {
            Some(gradient) => assert_eq!(floats(gradient), floats(all.get(&var).expect("all")), "{name}"),
            None => assert!(var.rank() > 1, "{name}"),
        }
    }
}
