#!/usr/bin/env python3
"""Time the reference augmentation in torchvision: images per second, a JSON line for each number of workers.

usage: torch_loader.py DATA_DIR [--workers 0 1 2 4] [--batch 128] [--epochs 1]
       torch_loader.py DATA_DIR --compare [--pairs 5]

DATA_DIR is the folder with train.bin of CIFAR-100's binary version. Needs torch, torchvision and numpy. Each image is a PIL
image, as in torchvision's data sets; it is cropped with padding 4, flipped, made a tensor and normalized, and a square of
16x16 is cut out with probability 0.5. With --compare, examples/loader.rs is built, runs in turn with torchvision's best
number of workers, and the ratios are printed.
"""
import argparse
import json
import pathlib
import random
import statistics
import time

import numpy
import torch
from compare_cpu import build, json_line
from PIL import Image
from torchvision import transforms

MEAN, STD = (0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)


class Cutout:
    """A square of zeros whose upper left corner is anywhere from 8 pixels outside the image to 8 before its end."""

    def __call__(self, image):
        if random.random() < 0.5:
            top, left = random.randrange(-8, 24), random.randrange(-8, 24)
            image[:, max(top, 0) : top + 16, max(left, 0) : left + 16] = 0
        return image


class Cifar100(torch.utils.data.Dataset):
    def __init__(self, folder):
        records = numpy.fromfile(pathlib.Path(folder) / "train.bin", dtype=numpy.uint8).reshape(-1, 3074)
        self.labels = records[:, 1].astype(numpy.int64)
        self.images = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
                Cutout(),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def images_per_second(data, workers, batch, epochs):
    torch.set_num_threads(2 if workers == 0 else 1)
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    if workers:
        next(iter(loader))  # Starting the workers is not what is timed.
    began = time.perf_counter()
    images = sum(len(labels) for _ in range(epochs) for _, labels in loader)
    return images / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--compare", action="store_true", help="run this project's loader too")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    data = Cifar100(args.data_dir)

    def theirs(workers):
        return images_per_second(data, workers, args.batch, args.epochs)

    rates = {}
    for workers in args.workers:
        rates[workers] = theirs(workers)
        print(json.dumps({"workers": workers, "images_per_second": rates[workers]}), flush=True)
    if not args.compare:
        return
    best = max(rates, key=rates.get)
    command = [build("loader"), "--data-dir", args.data_dir, "--batch", args.batch, "--epochs", 10]
    pairs = []
    for _ in range(args.pairs):
        ours = json_line(command)
        pairs.append((theirs(best), ours["images_per_second"], ours["peak_bytes"]))
        print(json.dumps({"workers": best, "torchvision": pairs[-1][0], "ours": pairs[-1][1]}), flush=True)
    ratios = [ours / theirs for theirs, ours, _ in pairs]
    median = statistics.median
    print(
        f"| {best} | {median(p[0] for p in pairs):.0f} | {median(p[1] for p in pairs):.0f} "
        f"| {median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {median(p[2] for p in pairs) / 2**20:.0f} |"
    )


if __name__ == "__main__":
    main()
