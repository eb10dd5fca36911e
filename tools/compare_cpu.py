#!/usr/bin/env python3
"""Time SAM steps of this project against PyTorch's on the same CPU, in interleaved runs.

usage: compare_cpu.py --peer PATH/TO/sam_step.py --python PYTHON [--pairs 5] [--forward] [NETWORK ...]

NETWORK is DEPTH,WIDTH,BATCH; by default the four of docs/benchmarking.md. PYTHON is an interpreter that has PyTorch.
Build first: cargo build --release --example throughput. Leave the machine otherwise idle.

With --forward, evaluation instead of a step: the peer is then tools/peer_forward.py.

Each pair runs PyTorch in both of its layouts and this project once, in turn; the ratio is that of the better layout's
median step to ours. Prints a Markdown table of medians over the pairs, with the smallest and largest ratio.
"""
import argparse
import json
import statistics
import subprocess

NETWORKS = ["28,10,8", "34,10,8", "16,2,128", "10,1,128"]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--python", default="python3")
    parser.add_argument("--ours", default="target/release/examples/throughput")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forward", action="store_true")
    args = parser.parse_args()
    print("| network, batch | PyTorch s | ours s | PyTorch / ours (min to max) | PyTorch MiB | ours MiB |")
    print("|---|---|---|---|---|---|")
    for network in args.networks:
        depth, width, batch = network.split(",")
        options = ["--steps", str(args.steps), "--threads", str(args.threads)]
        rows = []
        for _ in range(args.pairs):
            peers = [
                run([args.python, args.peer, depth, width, batch, *options, "--layout", layout])
                for layout in ("nhwc", "nchw")
            ]
            forward = ["--forward"] if args.forward else []
            ours = run([args.ours, depth, width, batch, *options, *forward])
            peer = min(peers, key=lambda row: row["seconds_per_step"])
            rows.append((peer, ours, peer["seconds_per_step"] / ours["seconds_per_step"]))
        median = lambda values: statistics.median(list(values))
        ratios = [ratio for _, _, ratio in rows]
        print(
            f"| WRN-{depth}-{width}, {batch} "
            f"| {median(p['seconds_per_step'] for p, _, _ in rows):.3f} "
            f"| {median(o['seconds_per_step'] for _, o, _ in rows):.3f} "
            f"| {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {median(p['peak_bytes'] for p, _, _ in rows) / 2**20:.0f} "
            f"| {median(o['peak_bytes'] for _, o, _ in rows) / 2**20:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
