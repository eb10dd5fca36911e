//! How the names in a state dict relate to a model's: a prefix that a wrapper put before all of them, and the names that another
//! repository gives the same network.

use std::collections::BTreeMap;

/// From a model's names to those in a state dict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Naming {
    /// What stands before every name, with its dot: `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.`.
    prefix: String,
    /// Whether the names are xternalz/WideResNet-pytorch's.
    xternalz: bool,
}

impl Naming {
    /// The naming by which most of the `expected` names are found; unchanged names where others do no better.
    pub(crate) fn fitting<V>(expected: &[&str], found: &BTreeMap<String, V>) -> Self {
        let prefixes: Vec<&str> = common_prefixes(found).collect();
        let candidates = [false, true].into_iter().flat_map(|xternalz| {
            prefixes.iter().map(move |prefix| Self { prefix: prefix.to_string(), xternalz })
        });
        let mut best = (0, Self::default());
        for naming in candidates {
            let hits = expected.iter().filter(|name| found.contains_key(&naming.theirs(name))).count();
            if hits > best.0 {
                best = (hits, naming);
            }
        }
        best.1
    }

    /// The name in the state dict of what a model calls `name`.
    pub(crate) fn theirs(&self, name: &str) -> String {
        let name = if self.xternalz { xternalz(name) } else { None }.unwrap_or_else(|| name.to_string());
        format!("{}{name}", self.prefix)
    }
}

/// The longest prefix that all names share and that ends with a dot; empty where there is none.
pub(crate) fn common_prefix<V>(found: &BTreeMap<String, V>) -> &str {
    common_prefixes(found).last().unwrap_or_default()
}

/// The prefixes that all names share and that end with a dot, from the empty one on.
fn common_prefixes<V>(found: &BTreeMap<String, V>) -> impl Iterator<Item = &str> {
    // In sorted order, what the first and the last name share is shared by all.
    let ends = found.first_key_value().zip(found.last_key_value());
    let (first, last) = ends.map_or(("", ""), |((first, _), (last, _))| (first.as_str(), last.as_str()));
    let shared = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let dots = first.bytes().take(shared).enumerate().filter(|(_, byte)| *byte == b'.');
    std::iter::once("").chain(dots.map(move |(at, _)| &first[..=at]))
}

/// Names by which a Wide ResNet of any size is told.
pub(crate) const WIDE_RESNET: [&str; 4] = [
    "f.0_convolution.weight",
    "f.1_block.block.0.block.0_convolution.weight",
    "f.4_normalization.weight",
    "f.8_classification.weight",
];

/// Within a unit, for both kinds of it.
const XTERNALZ_UNIT: [(&str, &str); 9] = [
    ("norm_act.0_normalization", "bn1"),
    ("block.0_convolution", "conv1"),
    ("block.1_normalization", "bn2"),
    ("block.4_convolution", "conv2"),
    ("downsample", "convShortcut"),
    ("block.0_normalization", "bn1"),
    ("block.2_convolution", "conv1"),
    ("block.3_normalization", "bn2"),
    ("block.6_convolution", "conv2"),
];

/// The name at <https://github.com/xternalz/WideResNet-pytorch> for a Wide ResNet's value. None for other names.
fn xternalz(name: &str) -> Option<String> {
    let (layer, value) = name.strip_prefix("f.")?.rsplit_once('.')?;
    let layer = match layer {
        "0_convolution" => "conv1".to_string(),
        "4_normalization" => "bn1".to_string(),
        "8_classification" => "fc".to_string(),
        _ => {
            let (group, rest) = layer.split_once("_block.block.")?;
            let (unit, layer) = rest.split_once('.')?;
            let (_, layer) = XTERNALZ_UNIT.iter().find(|(ours, _)| *ours == layer)?;
            format!("block{group}.layer.{unit}.{layer}")
        }
    };
    Some(format!("{layer}.{value}"))
}

/// A Wide ResNet that computes another function: its repository, and what it does differently. None where the names are
/// not those of one that is known.
pub(crate) fn other_network<V>(found: &BTreeMap<String, V>) -> Option<(&'static str, &'static str)> {
    const NETWORKS: [(&str, &[&str], &str, &str); 3] = [
        (
            "meliketoy/wide-resnet.pytorch",
            &["layer1.0.bn1.weight", "layer3.0.shortcut.0.weight", "linear.weight"],
            "",
            "its projections take a unit's input before it is normalized, its second convolutions have the stride, and \
             its convolutions have biases",
        ),
        (
            "weiaicunzai/pytorch-cifar100",
            &["init_conv.weight", "conv2.0.residual.0.weight", "linear.weight"],
            "",
            "its projections take a unit's input before it is normalized, no ReLU follows its last normalization, and \
             its convolutions have biases",
        ),
        (
            "xternalz/WideResNet-pytorch",
            &["block1.layer.0.conv1.weight", "block3.layer.0.convShortcut.weight", "fc.weight"],
            "block1.layer.0.convShortcut.weight",
            "at width factor 1 its first unit has no projection",
        ),
    ];
    let prefixes: Vec<&str> = common_prefixes(found).collect();
    let has = |name: &str| prefixes.iter().any(|prefix| found.contains_key(&format!("{prefix}{name}")));
    let network =
        NETWORKS.iter().find(|(_, names, without, _)| names.iter().all(|name| has(name)) && !has(without));
    network.map(|&(repository, .., difference)| (repository, difference))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> BTreeMap<String, ()> {
        names.iter().map(|name| (name.to_string(), ())).collect()
    }

    #[test]
    fn prefixes_of_all_names_are_found() {
        let of = |names: &[&str]| common_prefixes(&found(names)).map(str::to_string).collect::<Vec<_>>();
        assert_eq!(of(&[]), [""]);
        assert_eq!(of(&["a.b", "c"]), [""]);
        assert_eq!(of(&["module.f.a", "module.f.b", "module.g"]), ["", "module."]);
        assert_eq!(
            of(&["module.model.f.a", "module.model.f.b"]),
            ["", "module.", "module.model.", "module.model.f."]
        );
        assert_eq!(of(&["modular", "module.a"]), [""]);
    }

    #[test]
    fn the_naming_that_finds_most_wins_and_none_is_the_default() {
        let expected = ["f.0_convolution.weight", "f.8_classification.bias"];
        let naming = |names: &[&str]| Naming::fitting(&expected, &found(names));
        let prefixed = |prefix: &str, xternalz| Naming { prefix: prefix.to_string(), xternalz };
        assert_eq!(naming(&expected), Naming::default());
        assert_eq!(naming(&["a", "b"]), Naming::default());
        assert_eq!(naming(&["module.f.0_convolution.weight", "module.f.x"]), prefixed("module.", false));
        assert_eq!(naming(&["module.f.0_convolution.weight", "x"]), Naming::default());
        assert_eq!(
            naming(&["a._orig_mod.conv1.weight", "a._orig_mod.fc.bias"]),
            prefixed("a._orig_mod.", true)
        );
        // A model whose own names begin so keeps them.
        let naming = Naming::fitting(&["model.a", "model.b"], &found(&["model.a", "model.b"]));
        assert_eq!(naming, Naming::default());
    }

    #[test]
    fn every_name_has_its_counterpart() {
        for (ours, theirs) in [
            ("f.0_convolution.weight", "conv1.weight"),
            ("f.1_block.block.0.norm_act.0_normalization.running_var", "block1.layer.0.bn1.running_var"),
            ("f.2_block.block.0.downsample.weight", "block2.layer.0.convShortcut.weight"),
            ("f.3_block.block.11.block.3_normalization.bias", "block3.layer.11.bn2.bias"),
            ("f.8_classification.bias", "fc.bias"),
        ] {
            assert_eq!(xternalz(ours).as_deref(), Some(theirs));
        }
        for name in ["", "f.", "f.9_more.weight", "f.1_block.block.weight", "unit.block.0_normalization.bias"]
        {
            assert_eq!(xternalz(name), None);
        }
    }
}
