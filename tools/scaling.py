#!/usr/bin/env python3
"""How the cost of a SAM step grows with batch, width and threads: a Markdown table and an SVG plot.

usage: scaling.py OUT.svg [--steps 3]

Times examples/throughput.rs, which is built first. Needs matplotlib. Leave the machine otherwise idle.
"""
import argparse
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from compare_cpu import build, json_line

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
WIDTHS = [1, 2, 4, 6, 8, 10]


def flops(depth, width, batch):
    """The operations of a SAM step's convolutions: three products in each of two passes."""
    widths, total, size, inputs = [16 * width, 32 * width, 64 * width], 3 * 16 * 9 * 32 * 32, 32, 16
    for group, outputs in enumerate(widths):
        size = 32 >> group
        total += size * size * (inputs * outputs * 10 + (2 * (depth - 4) // 6 - 1) * outputs * outputs * 9)
        inputs = outputs
    return 12 * batch * total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    ours = build("throughput")

    def measure(depth, width, batch, threads):
        command = [ours, depth, width, batch, "--threads", threads, "--steps", args.steps]
        return json_line(command)["seconds_per_step"]

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    print("| network | batch | threads | ms per image | GFLOP/s |\n|---|---|---|---|---|")

    def curve(axis, label, points, x_of):
        xs, ys = [], []
        for depth, width, batch, threads in points:
            seconds = measure(depth, width, batch, threads)
            xs.append(x_of(width, batch))
            ys.append(1000 * seconds / batch)
            rate = flops(depth, width, batch) / seconds / 1e9
            print(f"| WRN-{depth}-{width} | {batch} | {threads} | {ys[-1]:.3f} | {rate:.0f} |", flush=True)
        axis.plot(xs, ys, marker="o", label=label)

    for threads in (1, 2):
        points = [(16, 2, batch, threads) for batch in BATCHES]
        curve(axes[0], f"WRN-16-2, {threads} thread{'s'[: threads - 1]}", points, lambda _, batch: batch)
    for threads in (1, 2):
        points = [(10, width, 16, threads) for width in WIDTHS]
        curve(axes[1], f"WRN-10-k, batch 16, {threads} thread{'s'[: threads - 1]}", points, lambda width, _: width)
    axes[0].set(xscale="log", xlabel="batch", ylabel="milliseconds per image", title="a SAM step against the batch")
    axes[0].set_xticks(BATCHES, BATCHES)
    axes[1].set(xlabel="width factor k", ylabel="milliseconds per image", title="a SAM step against the width")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(args.out)


if __name__ == "__main__":
    main()
