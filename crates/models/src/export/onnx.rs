//! A network as an ONNX graph (<https://onnx.ai/onnx/repo-docs/IR.html>): a pass that writes what it is told to compute.

use candle_core::{DType, Device, Tensor};

use super::protobuf::Message;
use crate::batch_norm::BatchNorm;
use crate::conv2d::Conv2d;
use crate::dropout::Dropout;
use crate::error::Result;
use crate::linear::Linear;
use crate::mode::Mode;
use crate::pass::{Layer, Output, Pass};

/// The version of ONNX's operators. Any runtime since 2022 knows it.
const OPSET: i64 = 17;
/// The version of the file format that came with these operators.
const IR_VERSION: i64 = 8;
/// ONNX's number for `f32`.
const FLOAT: i64 = 1;

const INPUT: &str = "images";
const OUTPUT: &str = "logits";

/// The bytes of an ONNX model that evaluates `layer` on images `[batch, in_channels, height, width]`, all sizes but the
/// channels' free, and answers with `[batch, outputs]`. The metadata are pairs of a key and a text.
pub(crate) fn to_onnx(
    layer: &impl Layer,
    in_channels: usize,
    outputs: usize,
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>> {
    let mut graph = Graph::default();
    let (Output::Images(last) | Output::Features(last)) = layer.apply(&mut graph, INPUT.to_string())?;
    graph.node("Identity", OUTPUT, &[last], vec![]);

    let free = |name| Message::default().with_text(2, name);
    let fixed = |size: usize| Message::default().with_integer(1, size as i64);
    let images = vec![free("batch"), fixed(in_channels), free("height"), free("width")];
    let graph = Message::default()
        .with_all(graph.nodes, |graph, node| graph.with(1, node))
        .with_text(2, "network")
        .with_all(graph.values, |graph, value| graph.with(5, value))
        .with(11, value_info(INPUT, images))
        .with(12, value_info(OUTPUT, vec![free("batch"), fixed(outputs)]));
    let model = Message::default()
        .with_integer(1, IR_VERSION)
        .with_text(2, env!("CARGO_PKG_NAME"))
        .with_text(3, env!("CARGO_PKG_VERSION"))
        .with(7, graph)
        .with(8, Message::default().with_text(1, "").with_integer(2, OPSET))
        .with_all(metadata, |model, (key, text)| {
            model.with(14, Message::default().with_text(1, key).with_text(2, text))
        });
    Ok(model.into_bytes())
}

/// The name and shape of an input or output of `f32`.
fn value_info(name: &str, dims: Vec<Message>) -> Message {
    let shape = Message::default().with_all(dims, |shape, dim| shape.with(1, dim));
    let tensor = Message::default().with_integer(1, FLOAT).with(2, shape);
    Message::default().with_text(1, name).with(2, Message::default().with(1, tensor))
}

/// The operations so far, and the values of their parameters.
#[derive(Default)]
struct Graph {
    nodes: Vec<Message>,
    values: Vec<Message>,
}

impl Graph {
    /// Adds an operation. Its result has its own name.
    fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[impl AsRef<str>],
        attributes: Vec<Message>,
    ) -> String {
        let node = Message::default()
            .with_all(inputs, |node, input| node.with_text(1, input.as_ref()))
            .with_text(2, name)
            .with_text(3, name)
            .with_text(4, operator)
            .with_all(attributes, |node, attribute| node.with(5, attribute));
        self.nodes.push(node);
        name.to_string()
    }

    /// Adds a layer's parameter or buffer under the name that the state dict has for it.
    fn value(&mut self, layer: &str, name: &str, tensor: &Tensor) -> Result<String> {
        let name = if layer.is_empty() { name.to_string() } else { format!("{layer}.{name}") };
        let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let value = Message::default()
            .with_all(tensor.dims(), |value, &size| value.with_integer(1, size as i64))
            .with_integer(2, FLOAT)
            .with_text(8, &name)
            .with_bytes(9, &bytes);
        self.values.push(value);
        Ok(name)
    }
}

/// ONNX's numbers for the types of attributes.
const ATTRIBUTE_FLOAT: i64 = 1;
const ATTRIBUTE_INTEGER: i64 = 2;
const ATTRIBUTE_INTEGERS: i64 = 7;

fn float(name: &str, value: f64) -> Message {
    Message::default().with_text(1, name).with_float(2, value as f32).with_integer(20, ATTRIBUTE_FLOAT)
}

fn integer(name: &str, value: i64) -> Message {
    Message::default().with_text(1, name).with_integer(3, value).with_integer(20, ATTRIBUTE_INTEGER)
}

fn integers<const N: usize>(name: &str, values: [usize; N]) -> Message {
    Message::default()
        .with_text(1, name)
        .with_all(values, |attribute, value| attribute.with_integer(8, value as i64))
        .with_integer(20, ATTRIBUTE_INTEGERS)
}

/// Images and features are the names of values in the graph.
impl<'a> Pass<'a> for Graph {
    type Images = String;
    type Features = String;

    fn convolve(&mut self, convolution: &'a Conv2d, x: &String, add: Option<&String>) -> Result<String> {
        let Conv2d { name, weight, config, .. } = convolution;
        let attributes = vec![
            integers("kernel_shape", [weight.dims()[3]; 2]),
            integers("strides", [config.stride; 2]),
            integers("pads", [config.padding; 4]),
            integers("dilations", [config.dilation; 2]),
            integer("group", config.groups as i64),
        ];
        let weight = self.value(name, "weight", weight)?;
        let y = self.node("Conv", name, &[x.as_str(), &weight], attributes);
        Ok(match add {
            Some(add) => self.node("Add", &format!("{name}.sum"), &[&y, add], vec![]),
            None => y,
        })
    }

    fn normalize(&mut self, norm: &'a BatchNorm, _: Option<&'a Dropout>, x: &String) -> Result<String> {
        let state = norm.state(Mode::Eval);
        let values = [
            ("weight", state.weight),
            ("bias", state.bias),
            ("running_mean", state.running_mean.as_tensor()),
            ("running_var", state.running_var.as_tensor()),
        ];
        let mut inputs = vec![x.clone()];
        for (name, tensor) in values {
            inputs.push(self.value(&norm.name, name, tensor)?);
        }
        let epsilon = vec![float("epsilon", state.epsilon)];
        let y = self.node("BatchNormalization", &norm.name, &inputs, epsilon);
        Ok(self.node("Relu", &format!("{}.relu", norm.name), &[&y], vec![]))
    }

    fn average(&mut self, name: &'a str, x: &String) -> Result<String> {
        let y = self.node("GlobalAveragePool", name, &[x], vec![]);
        Ok(self.node("Flatten", &format!("{name}.flat"), &[&y], vec![integer("axis", 1)]))
    }

    fn linear(&mut self, linear: &'a Linear, x: String) -> Result<String> {
        let weight = self.value(&linear.name, "weight", &linear.weight)?;
        let bias = self.value(&linear.name, "bias", &linear.bias)?;
        Ok(self.node("Gemm", &linear.name, &[&x, &weight, &bias], vec![integer("transB", 1)]))
    }
}
