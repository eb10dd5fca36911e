"""Writes the PyTorch files in this folder, which tests/weights reads: python make.py (made with PyTorch 2.15).

Each holds the state dict of a BasicUnit of 4 channels under "unit". Element i of the tensor numbered t is
(i + 1 + t) / 8, which f16 and bf16 represent exactly.
"""

from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
NORMALIZATION = [("weight", (4,)), ("bias", (4,)), ("running_mean", (4,)), ("running_var", (4,))]
LAYERS = [
    ("0_normalization", NORMALIZATION),
    ("2_convolution", [("weight", (4, 4, 3, 3))]),
    ("3_normalization", NORMALIZATION),
    ("6_convolution", [("weight", (4, 4, 3, 3))]),
]


def state_dict():
    state, number = OrderedDict(), 0
    for layer, values in LAYERS:
        for name, shape in values:
            count = torch.Size(shape).numel()
            state[f"unit.block.{layer}.{name}"] = ((torch.arange(count) + 1 + number) / 8).reshape(shape)
            number += 1
        if "normalization" in layer:
            state[f"unit.block.{layer}.num_batches_tracked"] = torch.tensor(7)
    return state


def converted(dtype):
    """Another float type, channels last in memory, and counters as old versions had them."""
    state = state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = value.to(dtype)
        else:
            state[name] = value.to(torch.int32).reshape(1)
        if value.dim() == 4:
            state[name] = state[name].contiguous(memory_format=torch.channels_last)
    return state


def views():
    """All float tensors in one storage, the convolutions transposed in it; no counters."""
    floats = {name: value for name, value in state_dict().items() if value.is_floating_point()}
    stored = {name: value.permute(3, 2, 1, 0) if value.dim() == 4 else value for name, value in floats.items()}
    storage = torch.cat([torch.zeros(5)] + [value.reshape(-1) for value in stored.values()])
    state, offset = {}, 5
    for name, value in stored.items():
        view = storage[offset : offset + value.numel()].view(value.shape)
        state[name] = view.permute(3, 2, 1, 0) if value.dim() == 4 else view
        offset += value.numel()
    return state


def prefixed(prefix):
    return {prefix + name: value for name, value in state_dict().items()}


checkpoint = {
    "epoch": 3,
    "best": torch.tensor(0.5),
    "state_dict": prefixed("module."),
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}
parameters = {"net": {"model": {name: torch.nn.Parameter(v, v.is_floating_point()) for name, v in prefixed("_orig_mod.module.").items()}}}
files = {
    "plain.pth": state_dict(),
    "checkpoint.pth": checkpoint,
    "parameters.pt": parameters,
    "f16.pth": converted(torch.float16),
    "bf16.pth": converted(torch.bfloat16),
    "f64.pth": converted(torch.float64),
    "views.pth": views(),
    "module.pth": {"net": torch.nn.BatchNorm2d(4), "acc": 12.5},
}
for name, value in files.items():
    torch.save(value, FOLDER / name)
torch.save(state_dict(), FOLDER / "protocol4.pth", pickle_protocol=4)
torch.save(state_dict(), FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
