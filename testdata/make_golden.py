#!/usr/bin/env python3
"""Write the golden fixtures of this folder: whole SAM steps of small Wide ResNets, computed by PyTorch in float64.

usage: make_golden.py [OUT_DIR]      (needs torch, safetensors and numpy; the default of OUT_DIR is this script's folder)

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

Rounding can change the sign of a ReLU's input that is almost zero, which switches its gradient on or off; in a batch this
small, one such ReLU shows. With the seeds below, no ReLU's input in the first step is nearer to zero than MARGIN.
"""

import json
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
from torch_peer import WideResNet, base_optimizer, sam_step  # noqa: E402

MARGIN = 1e-5
SGD = {"base": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
ADAMW = {"base": "adamw", "lr": 1e-3, "weight_decay": 1e-2}
CASES = {
    "wrn10-1_sam_sgd": dict(labels=4, batch=3, steps=2, rho=0.1, adaptive=False, smoothing=0.1, seed=24, **SGD),
    "wrn10-1_asam_nesterov": dict(labels=7, batch=3, steps=1, rho=1.0, adaptive=True, smoothing=0.2, seed=21, **SGD | {"nesterov": True}),
    "wrn10-1_sam_adamw": dict(labels=5, batch=4, steps=2, rho=0.05, adaptive=False, smoothing=0.0, seed=72, **ADAMW),
}


def randomize(model, generator):
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


def golden(config):
    generator = torch.Generator().manual_seed(config["seed"])
    model = WideResNet(config["depth"], config["width"], config["labels"]).double()
    randomize(model, generator)
    optimizer = base_optimizer(model.parameters(), config)
    tensors = {}

    def keep(prefix, values):
        tensors.update({f"{prefix}/{name}": value.detach().clone() for name, value in values.items()})

    def evaluate(prefix, images):
        with torch.no_grad():
            tensors[f"{prefix}/logits"] = model.eval()(images)
        model.train()

    keep("init", model.state_dict())
    for step in range(1, config["steps"] + 1):
        images = torch.randn(config["batch"], 3, 32, 32, generator=generator).double()
        labels = torch.randint(config["labels"], (config["batch"],), generator=generator)
        keep(f"step{step}", {"x": images, "y": labels})
        if step == 1:
            evaluate("init_eval", images)
            margin = Margin(model)

        def observe(stage, logits, losses):
            suffix = "2" if stage == "second" else ""
            if stage != "ascended":
                keep(f"step{step}", {f"logits{suffix}": logits, f"loss{suffix}": losses})
            if step > 1:
                return
            if stage == "ascended":
                keep("step1/perturbed", dict(model.named_parameters()))
            else:
                keep(f"step1/grad{suffix or 1}", {name: p.grad for name, p in model.named_parameters()})

        options = {name: config[name] for name in ("rho", "adaptive", "smoothing")}
        sam_step(model, optimizer, images, labels, **options, observe=observe)
        if step == 1:
            margin.stop()
            assert margin.value >= MARGIN, f"a ReLU's input is {margin.value:.1e} from zero: take another seed"
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
