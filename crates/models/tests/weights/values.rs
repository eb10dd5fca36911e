//! Values: element types, counters, and numbers that mean nothing.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use wrn_sam_models::{Parameters, WideResNet};

use super::{CPU, config, network, refuses, state, trained};

#[test]
fn float_types_are_converted_and_counters_may_be_missing() {
    let (_, parameters) = trained();
    let converted = |dtype: DType| -> HashMap<String, Tensor> {
        let convert =
            |tensor: Tensor| if tensor.dtype() == DType::I64 { Ok(tensor) } else { tensor.to_dtype(dtype) };
        state(&parameters).into_iter().map(|(name, tensor)| (name, convert(tensor).unwrap())).collect()
    };
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let (_, loaded) = network(0);
        loaded.load_state(&converted(dtype)).unwrap();
        for (name, _, var) in loaded.named().iter().filter(|(.., var)| var.dtype() == DType::F32) {
            let expected = converted(dtype)[name].to_dtype(DType::F32).unwrap();
            assert_eq!(
                safetensors::View::data(var.as_tensor()),
                safetensors::View::data(&expected),
                "{name}"
            );
        }
    }
    // An f64 model takes f32 values exactly.
    let wide = Parameters::new(0, DType::F64, &CPU);
    WideResNet::new(&config(), wide.var_builder()).unwrap();
    wide.load_state(&state(&parameters)).unwrap();
    let of = |parameters: &Parameters| {
        parameters
            .get("f.8_classification.bias")
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1::<f64>()
            .unwrap()
    };
    assert_eq!(of(&wide), of(&parameters));

    let counter = |name: &str| name.ends_with("num_batches_tracked");
    let count = |parameters: &Parameters| {
        parameters.get("f.4_normalization.num_batches_tracked").unwrap().to_scalar::<i64>().unwrap()
    };
    let with = |tensor: Option<Tensor>| -> HashMap<String, Tensor> {
        let of = |(name, value): (String, Tensor)| {
            let value = if counter(&name) { tensor.clone()? } else { value };
            Some((name, value))
        };
        state(&parameters).into_iter().filter_map(of).collect()
    };
    let one = |dtype| Tensor::new(&[9u32], &CPU).unwrap().to_dtype(dtype).unwrap();
    let forms = [
        (None, 0),
        (Some(one(DType::I64)), 9),
        (Some(one(DType::I32).reshape(()).unwrap()), 9),
        (Some(one(DType::U8)), 9),
    ];
    for (form, expected) in forms {
        let loaded = trained().1;
        loaded.load_state(&with(form)).unwrap();
        assert_eq!(count(&loaded), expected);
    }
    for form in [one(DType::F32), Tensor::zeros(2, DType::I64, &CPU).unwrap()] {
        assert!(network(0).1.load_state(&with(Some(form))).is_err());
    }

    // Whole numbers are no weights, and a shape is a shape.
    for value in
        [Tensor::zeros(10, DType::I64, &CPU).unwrap(), Tensor::zeros((10, 1), DType::F32, &CPU).unwrap()]
    {
        let mut state = state(&parameters);
        state.insert("f.8_classification.bias".to_string(), value);
        let error = network(0).1.load_state(&state).unwrap_err();
        refuses(error, &["1 of another shape or type (f.8_classification.bias is ", ", not F32 [10])"]);
    }
}

#[test]
fn values_that_mean_nothing_are_loaded_and_found() {
    let (_, parameters) = trained();
    parameters.check_values().unwrap();
    for (name, place, value) in [
        ("f.0_convolution.weight", 3, f32::NAN),
        ("f.8_classification.bias", 9, f32::INFINITY),
        ("f.4_normalization.running_mean", 0, f32::NEG_INFINITY),
        ("f.4_normalization.running_var", 5, -1.0),
    ] {
        let mut state = state(&parameters);
        let shape = state[name].dims().to_vec();
        let mut values: Vec<f32> = state[name].flatten_all().unwrap().to_vec1().unwrap();
        values[place] = value;
        let count = values.len();
        state.insert(name.to_string(), Tensor::from_vec(values, shape, &CPU).unwrap());
        let (_, loaded) = network(0);
        loaded.load_state(&state).unwrap();
        refuses(
            loaded.check_values().unwrap_err(),
            &[name, &format!("holds {value} (1 of its {count} values")],
        );
    }
}
