#!/usr/bin/env python3
"""Write the golden fixtures of this folder: whole SAM steps of small Wide ResNets, computed by PyTorch in float64.

usage: make_golden.py [OUT_DIR]      (needs torch and safetensors; OUT_DIR is this script's folder unless told)

Each file holds, stored as float32 (labels and counters as int64):

    init/NAME                     state_dict before the first step
    init_eval/logits              evaluation of step1/x with it
    stepN/{x,y}                   the batch of step N, from 1
    stepN/{logits,loss}           first pass: training mode, at w; losses per sample
    stepN/{logits2,loss2}         second pass: training mode, running statistics frozen, at w + e
    step1/{grad1,perturbed,grad2}/NAME   gradient of the mean loss at w; w + e; gradient at w + e
    stepN/after/NAME              state_dict after the step (of files from elsewhere: of the first and the last step)
    final_eval/logits             evaluation of the last batch with the last state

and, in the metadata, `config` (JSON: what `CASES` says below) and `made_by`. `cargo run --example verify -- FILE` replays it.

A ReLU whose input rounding takes over its kink turns its gradient on or off, and in so small a batch a single one shows.
The seeds below are such that in the first step no ReLU's input is nearer to zero than MARGIN.
"""

import json
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

MARGIN = 1e-5
SGD = {"base": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
ADAMW = {"base": "adamw", "lr": 1e-3, "weight_decay": 1e-2}
CASES = {
    "wrn10-1_sam_sgd": dict(labels=4, batch=3, steps=2, rho=0.1, adaptive=False, smoothing=0.1, seed=24, **SGD),
    "wrn10-1_asam_nesterov": dict(labels=7, batch=3, steps=1, rho=1.0, adaptive=True, smoothing=0.2, seed=21, **SGD | {"nesterov": True}),
    "wrn10-1_sam_adamw": dict(labels=5, batch=4, steps=2, rho=0.05, adaptive=False, smoothing=0.0, seed=72, **ADAMW),
}


def convolution(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Unit(nn.Module):
    """Pre-activation residual unit. With `inputs` given it is the first of its group: the activation is shared by both
    branches and a 1x1 convolution projects the shortcut."""

    def __init__(self, outputs, stride=1, inputs=None):
        super().__init__()
        self.projects = inputs is not None
        first = convolution(inputs or outputs, outputs, 3, stride)
        norms = [nn.BatchNorm2d(inputs or outputs), nn.BatchNorm2d(outputs)]
        last = convolution(outputs, outputs, 3)
        if self.projects:
            self.norm_act = nn.ModuleDict({"0_normalization": norms[0]})
            self.block = nn.ModuleDict({"0_convolution": first, "1_normalization": norms[1], "4_convolution": last})
            self.downsample = convolution(inputs, outputs, 1, stride)
        else:
            self.block = nn.ModuleDict(
                {"0_normalization": norms[0], "2_convolution": first, "3_normalization": norms[1], "6_convolution": last}
            )

    def forward(self, x):
        if self.projects:
            first, normalization, last = self.block.values()
            activated = F.relu(self.norm_act["0_normalization"](x))
            return last(F.relu(normalization(first(activated)))) + self.downsample(activated)
        before, first, between, last = self.block.values()
        return x + last(F.relu(between(first(F.relu(before(x))))))


class Group(nn.Module):
    def __init__(self, inputs, outputs, stride, units):
        super().__init__()
        rest = (Unit(outputs) for _ in range(units - 1))
        self.block = nn.Sequential(Unit(outputs, stride, inputs), *rest)

    def forward(self, x):
        return self.block(x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, labels):
        super().__init__()
        assert depth > 4 and depth % 6 == 4, f"depth {depth} is not 6n+4"
        units = (depth - 4) // 6
        self.f = nn.ModuleDict(
            {
                "0_convolution": convolution(3, 16, 3),
                "1_block": Group(16, 16 * width, 1, units),
                "2_block": Group(16 * width, 32 * width, 2, units),
                "3_block": Group(32 * width, 64 * width, 2, units),
                "4_normalization": nn.BatchNorm2d(64 * width),
                "8_classification": nn.Linear(64 * width, labels),
            }
        )

    def forward(self, x):
        stem, one, two, three, normalization, classification = self.f.values()
        x = F.relu(normalization(three(two(one(stem(x))))))
        return classification(x.mean((2, 3)))


def randomise(model, generator):
    """No value is left at a special one (0 or 1), so that every tensor counts; all are exact in float32."""

    def draw(shape, mean, deviation):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * deviation + mean
        return values.float().double()

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.copy_(draw(module.weight.shape, 0, math.sqrt(2 / fan_in)))
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(draw(module.weight.shape, 1, 0.2))
                module.bias.copy_(draw(module.bias.shape, 0, 0.2))
                module.running_mean.copy_(draw(module.running_mean.shape, 0, 0.1))
                module.running_var.copy_(draw(module.running_var.shape, 1, 0.1).abs())
            elif isinstance(module, nn.Linear):
                module.weight.copy_(draw(module.weight.shape, 0, 0.2))
                module.bias.copy_(draw(module.bias.shape, 0, 0.1))


def freeze_running_statistics(model, frozen):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0 if frozen else 0.1


def smooth_cross_entropy(logits, labels, smoothing):
    """KL(q || softmax(logits)) per sample: q has 1 - smoothing on the label and the rest shared by the others."""
    classes = logits.shape[1]
    target = torch.full_like(logits, smoothing / (classes - 1))
    target[torch.arange(len(labels)), labels] = 1 - smoothing
    return F.kl_div(F.log_softmax(logits, 1), target, reduction="none").sum(1)


class Margin:
    """The smallest absolute input of a ReLU, all of which are outputs of batch normalization here."""

    def __init__(self, model):
        self.value = math.inf
        normalizations = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        self.hooks = [module.register_forward_hook(self.see) for module in normalizations]

    def see(self, _module, _inputs, output):
        self.value = min(self.value, output.detach().abs().min().item())

    def stop(self):
        for hook in self.hooks:
            hook.remove()


def base_optimizer(parameters, config):
    if config["base"] == "sgd":
        names = ("lr", "momentum", "nesterov", "weight_decay")
        return torch.optim.SGD(parameters, **{name: config[name] for name in names})
    return torch.optim.AdamW(parameters, lr=config["lr"], weight_decay=config["weight_decay"], betas=(0.9, 0.999), eps=1e-8)


def perturb(parameters, rho, adaptive):
    """w <- w + e(w), the ascent step of SAM (arXiv 2010.01412) or ASAM (arXiv 2102.11600)."""
    weights = [p.detach().abs() if adaptive else torch.ones_like(p) for p in parameters]
    norm = torch.cat([(w * p.grad).flatten() for w, p in zip(weights, parameters)]).norm()
    with torch.no_grad():
        for weight, parameter in zip(weights, parameters):
            parameter += weight**2 * parameter.grad * (rho / (norm + 1e-12))


def golden(config):
    generator = torch.Generator().manual_seed(config["seed"])
    model = WideResNet(config["depth"], config["width"], config["labels"]).double()
    randomise(model, generator)
    parameters = list(model.parameters())
    optimizer = base_optimizer(parameters, config)
    tensors = {}

    def keep(prefix, values):
        tensors.update({f"{prefix}/{name}": value.detach().clone() for name, value in values.items()})

    def keep_gradients(prefix):
        keep(prefix, {name: p.grad for name, p in model.named_parameters()})

    def evaluate(prefix, images):
        with torch.no_grad():
            tensors[f"{prefix}/logits"] = model.eval()(images)
        model.train()

    def forward_backward(images, labels):
        optimizer.zero_grad()
        logits = model(images)
        loss = smooth_cross_entropy(logits, labels, config["smoothing"])
        loss.mean().backward()
        return logits, loss

    keep("init", model.state_dict())
    for step in range(1, config["steps"] + 1):
        images = torch.randn(config["batch"], 3, 32, 32, generator=generator).double()
        labels = torch.randint(config["labels"], (config["batch"],), generator=generator)
        keep(f"step{step}", {"x": images, "y": labels})
        if step == 1:
            evaluate("init_eval", images)
            margin = Margin(model)

        logits, loss = forward_backward(images, labels)
        keep(f"step{step}", {"logits": logits, "loss": loss})
        if step == 1:
            keep_gradients("step1/grad1")

        before = [p.detach().clone() for p in parameters]
        perturb(parameters, config["rho"], config["adaptive"])
        if step == 1:
            keep("step1/perturbed", dict(model.named_parameters()))

        freeze_running_statistics(model, True)
        logits, loss = forward_backward(images, labels)
        freeze_running_statistics(model, False)
        keep(f"step{step}", {"logits2": logits, "loss2": loss})
        if step == 1:
            keep_gradients("step1/grad2")
            margin.stop()
            assert margin.value >= MARGIN, f"a ReLU's input is {margin.value:.1e} from its kink: take another seed"

        with torch.no_grad():
            for parameter, value in zip(parameters, before):
                parameter.copy_(value)
        optimizer.step()
        keep(f"step{step}/after", model.state_dict())
    evaluate("final_eval", images)
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent
    torch.set_num_threads(1)
    for name, case in CASES.items():
        config = dict(depth=10, width=1, **case)
        path = folder / f"{name}.safetensors"
        metadata = {"config": json.dumps(config), "made_by": f"PyTorch {torch.__version__}, float64, stored as float32"}
        save_file({key: tensor.contiguous() for key, tensor in golden(config).items()}, path, metadata)
        print(f"{path} {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
