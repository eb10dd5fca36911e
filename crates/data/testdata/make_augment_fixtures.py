#!/usr/bin/env python3
"""Make augment.safetensors.gz: what torchvision's policies and mixing do to small synthetic images.

usage: make_augment_fixtures.py        (needs torch, torchvision, Pillow, numpy, safetensors)

images                  u8  [2, 3, 32, 32]   what the operations are applied to
op/NAME/STRENGTH        u8  [2, 3, 32, 32]   the same after one operation, on Pillow images
POLICY/{name,strength,expected}   [M]        every operation that POLICY can draw: its place in KINDS, its signed strength,
                                             and how many of it an image gets on average
mix/{images,mixup,cutmix}  f32 [3, 3, 32, 32]   a batch, and the same mixed with the weight 0.3 or the box in mixing()
"""
import collections
import gzip
import io
import pathlib

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save
from torchvision.transforms import v2
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

KINDS = [
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert",
]  # fmt: skip


def drawing():
    """Smooth colors under shapes with hard edges, in a part of the range of bytes."""
    y, x = np.mgrid[0:32, 0:32]
    planes = [20 + 5 * x + y, 200 - 4 * y - x // 2, 60 + 3 * ((x + y) // 2)]
    image = Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8), "RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((5, 8, 17, 20), fill=(230, 40, 90))
    draw.rectangle((20, 3, 29, 12), fill=(15, 120, 210))
    draw.line((2, 30, 30, 15), fill=(240, 240, 235), width=2)
    return image


def few_colors():
    """Four colors, one channel nearly flat: what histograms find hardest."""
    y, x = np.mgrid[0:32, 0:32]
    cell = (x // 5 + y // 7) % 4
    red, green = np.array([0, 90, 91, 255])[cell], np.array([100, 101, 103, 140])[cell]
    blue = np.where((x == 31) & (y == 31), 130, 128)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8), "RGB")


def tensor(images):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in images])


def strengths(space, bins):
    """Some of an operation's strengths, with both signs."""
    magnitudes, signed = space
    if magnitudes.ndim == 0:
        return [0.0]
    values = [float(magnitudes[bin].item()) for bin in bins]
    return sorted(set(values + [-value + 0.0 for value in values if signed]))


def operations(images):
    auto, trivial = AutoAugment(AutoAugmentPolicy.CIFAR10), TrivialAugmentWide()
    narrow, wide = auto._augmentation_space(10, (32, 32)), trivial._augmentation_space(31)
    result = {}
    for name in KINDS:
        chosen = strengths(narrow.get(name, (torch.tensor(0.0), False)), [0, 3, 9])
        if name in wide:
            chosen += strengths(wide[name], [20, 29])
        for strength in sorted(set(chosen)):
            after = [_apply_op(image, name, strength, InterpolationMode.NEAREST, None) for image in images]
            result[f"op/{name}/{strength!r}"] = tensor(after)
    return result


def policy(name, expected):
    """`expected`: (operation, strength) -> how many an image gets on average."""
    rows = sorted((KINDS.index(kind), strength, count) for (kind, strength), count in expected.items())
    kinds, values, counts = zip(*rows)
    return {
        f"{name}/name": torch.tensor(kinds, dtype=torch.uint8),
        f"{name}/strength": torch.tensor(values, dtype=torch.float64),
        f"{name}/expected": torch.tensor(counts, dtype=torch.float64),
    }


def add(expected, kind, space, bin, share):
    magnitudes, signed = space
    strength = float(magnitudes[bin].item()) if magnitudes.ndim > 0 and bin is not None else 0.0
    for sign in (1.0, -1.0):
        expected[kind, (sign * strength if signed else strength) + 0.0] += share / 2


def policies():
    auto = AutoAugment(AutoAugmentPolicy.CIFAR10)
    space = auto._augmentation_space(10, (32, 32))
    expected = collections.Counter()
    for pair in auto.policies:
        for kind, p, bin in pair:
            if p > 0:
                add(expected, kind, space[kind], bin, p / len(auto.policies))
    result = policy("AutoAugment", expected)

    rand = RandAugment()
    space = rand._augmentation_space(rand.num_magnitude_bins, (32, 32))
    expected = collections.Counter()
    for kind in space:
        add(expected, kind, space[kind], rand.magnitude, rand.num_ops / len(space))
    result |= policy("RandAugment", expected)

    trivial = TrivialAugmentWide()
    space = trivial._augmentation_space(trivial.num_magnitude_bins)
    expected = collections.Counter()
    for kind, (magnitudes, signed) in space.items():
        bins = len(magnitudes) if magnitudes.ndim > 0 else 1
        for bin in range(bins):
            add(expected, kind, (magnitudes, signed), bin, 1 / len(space) / bins)
    return result | policy("TrivialAugmentWide", expected)


def mixing(images):
    """v2.MixUp and v2.CutMix at a fixed weight and box (left, top, right, bottom)."""
    mirrored = images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    batch = (tensor([*images, mirrored]).float() - 128) / 64
    mixup = v2.MixUp(num_classes=10).transform(batch, {"lam": 0.3, "labels": None, "batch_size": 3})
    cutmix = v2.CutMix(num_classes=10).transform(batch, {"box": (20, 3, 32, 14), "labels": None, "batch_size": 3})
    return {"mix/images": batch, "mix/mixup": mixup, "mix/cutmix": cutmix}


def main():
    images = [drawing(), few_colors()]
    tensors = {"images": tensor(images), **operations(images), **policies(), **mixing(images)}
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(save({name: value.contiguous() for name, value in tensors.items()}))
    path = pathlib.Path(__file__).with_name("augment.safetensors.gz")
    path.write_bytes(packed.getvalue())
    print(f"{path}: {len(packed.getvalue())} bytes, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
