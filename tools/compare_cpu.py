#!/usr/bin/env python3
"""Time this project against PyTorch on the same CPU, in interleaved runs, and print a Markdown table.

usage: python3 -m venv venv && venv/bin/pip install torch
       venv/bin/python tools/compare_cpu.py [--forward] [NETWORK ...]

NETWORK is DEPTH,WIDTH,BATCH; the default is the table of the README. What is timed is a SAM training step, or with
--forward an evaluation: tools/torch_peer.py in PyTorch, examples/throughput.rs here, which is built first. Leave the machine
otherwise idle.

A pair runs PyTorch once in each memory layout and this project once. The ratio of a pair is PyTorch's better time divided
by ours. The table has medians over the pairs, and the smallest and the largest ratio.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = ROOT / "tools/torch_peer.py"
NETWORKS = ["28,10,8", "34,10,8", "16,2,128", "10,1,128"]


def build(example):
    """Builds an example of this project in release mode; the path of its program."""
    command = ["cargo", "build", "--release", "--locked", "--example", example, "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for message in map(json.loads, done.stdout.splitlines()):
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == example:
            return message["executable"]
    sys.exit(f"error: cargo built no example {example}")


def json_line(command):
    """The last line that a program prints, which is JSON."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--forward", action="store_true", help="time an evaluation instead of a training step")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch; default: this one")
    parser.add_argument("--ours", help="a throughput program that is built already")
    args = parser.parse_args()
    ours = args.ours or build("throughput")
    options = ["--steps", args.steps, "--threads", args.threads] + ["--forward"] * args.forward
    print("| network, batch | PyTorch s | ours s | PyTorch / ours (min to max) | PyTorch MiB | ours MiB |")
    print("|---|---|---|---|---|---|", flush=True)
    for network in args.networks:
        sizes = network.split(",")
        rows = []
        for _ in range(args.pairs):
            peers = [json_line([args.python, PEER, *sizes, *options, "--layout", layout]) for layout in ("nhwc", "nchw")]
            rows.append((min(peers, key=lambda row: row["seconds_per_step"]), json_line([ours, *sizes, *options])))
        median = lambda side, key: statistics.median(row[side][key] for row in rows)
        ratios = [peer["seconds_per_step"] / mine["seconds_per_step"] for peer, mine in rows]
        print(
            f"| WRN-{sizes[0]}-{sizes[1]}, {sizes[2]} | {median(0, 'seconds_per_step'):.3f} | {median(1, 'seconds_per_step'):.3f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {median(0, 'peak_bytes') / 2**20:.0f} | {median(1, 'peak_bytes') / 2**20:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
