#!/usr/bin/env python3
"""Time single convolutions on tensors against PyTorch's on the same CPU, in interleaved runs, and print a Markdown table.

usage: python3 -m venv venv && venv/bin/pip install torch
       venv/bin/python tools/compare_layers.py [--threads N] [--pairs N] [NAME ...]

examples/layers.rs, which is built first, says which layers there are; NAME picks those whose name it is part of. Timed are a
forward pass, and a forward and a backward pass with gradients of input and weight. PyTorch's time is that of the better of
its two memory layouts. Each figure is the least of all pairs, a ratio above 1 says that this project is faster. Leave the
machine otherwise idle.
"""
import argparse
import json
import subprocess
import sys
import time

import torch

from compare_cpu import build


def json_lines(command):
    """The lines that a program prints, each of them JSON."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def peer(layer, rounds):
    """PyTorch's least times for a layer: forward, and forward and backward."""
    least = [float("inf")] * 2
    outputs, groups, kernel = layer["outputs"], layer["groups"], layer["kernel"]
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(layer["input"]).contiguous(memory_format=layout).requires_grad_()
        w = torch.randn(outputs, layer["input"][1] // groups, kernel, kernel)
        w = (0.1 * w).contiguous(memory_format=layout).requires_grad_()
        gradient = None
        for _ in range(rounds + 1):
            x.grad = w.grad = None
            start = time.perf_counter()
            y = torch.nn.functional.conv2d(x, w, None, layer["stride"], layer["padding"], 1, groups)
            least[0] = min(least[0], time.perf_counter() - start)
            if gradient is None:
                gradient = torch.randn_like(y)
                continue
            y.backward(gradient)
            least[1] = min(least[1], time.perf_counter() - start)
    return [1e3 * seconds for seconds in least]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10, help="timed passes of each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", help="a program `layers` that is built already")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    command = [args.ours or build("layers"), "--threads", args.threads, "--rounds", args.rounds]
    best = {}
    for _ in range(args.pairs):
        for layer in json_lines(command + args.names):
            times = [layer["forward_ms"], layer["both_ms"], *peer(layer, args.rounds)]
            known = best.get(layer["name"], times)
            best[layer["name"]] = [min(pair) for pair in zip(known, times)]
            print(f"{layer['name']}: {times}", file=sys.stderr)
    print("| layer | forward: PyTorch ms | ours ms | PyTorch / ours | both: PyTorch ms | ours ms | PyTorch / ours |")
    print("|---|---|---|---|---|---|---|")
    for name, (forward, both, peer_forward, peer_both) in best.items():
        print(
            f"| {name} | {peer_forward:.2f} | {forward:.2f} | {peer_forward / forward:.2f} "
            f"| {peer_both:.2f} | {both:.2f} | {peer_both / both:.2f} |"
        )


if __name__ == "__main__":
    main()
