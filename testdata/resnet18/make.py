#!/usr/bin/env python3
"""What torchvision's ResNet-18 computes in float64 from values that a formula gives: the fixture of tests/resnet18.rs.

usage: make.py FILE.safetensors        (needs torch, torchvision, safetensors)

The fixture holds the logits of a training pass and of an evaluation after it, the sums of the running statistics, and of
each gradient its norm and its product with other values of the formula. The network's values are made by the test.
"""
import sys

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file

CLASSES, BATCH, SIZE = 10, 4, 64


def numbers(seed, shape):
    """Uniform in [-0.5, 0.5): a 32-bit mix of the seed and the place, exact in every language."""
    count = int(np.prod(shape))
    x = (np.arange(count, dtype=np.uint64) + np.uint64(seed * 7919 + 1)) * np.uint64(2654435761) % np.uint64(2**32)
    x = (x ^ (x >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    x = x ^ (x >> np.uint64(13))
    return torch.from_numpy((x.astype(np.float64) / 2**32 - 0.5).reshape(shape))


def fill(model):
    """Convolutions and the classifier around 0, norms around 1 and 0. In float32, as the test has them."""
    for seed, (name, value) in enumerate(model.named_parameters()):
        scale = (24 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.4
        values = numbers(seed, value.shape) * scale + (1.0 if value.dim() == 1 and name.endswith("weight") else 0.0)
        value.data = values.float().double()


def main():
    model = torchvision.models.resnet18(num_classes=CLASSES).double()
    fill(model)
    images = (numbers(1000, (BATCH, 3, SIZE, SIZE)) * 4).float().double()
    weights = numbers(1001, (BATCH, CLASSES)).float().double()
    model.train()
    train = model(images)
    (train * weights).sum().backward()
    model.eval()
    with torch.no_grad():
        evaluated = model(images)
    gradients = [
        [parameter.grad.norm(), (parameter.grad * numbers(500 + seed, parameter.shape)).sum()]
        for seed, parameter in enumerate(model.parameters())
    ]
    running = [buffer.sum() for name, buffer in model.named_buffers() if "running" in name]
    tensors = {"train": train.detach(), "eval": evaluated, "gradients": torch.tensor(gradients), "running": torch.stack(running)}
    save_file({name: tensor.double().contiguous() for name, tensor in tensors.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
