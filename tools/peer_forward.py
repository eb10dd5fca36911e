#!/usr/bin/env python3
"""Time PyTorch's forward pass in evaluation mode, as `throughput --forward` times ours; one JSON line.

usage: peer_forward.py DEPTH WIDTH BATCH [--steps N] [--threads N] [--layout nchw|nhwc]
"""
import argparse
import json
import pathlib
import resource
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "testdata"))
from make_golden import WideResNet  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("depth", "width", "batch"):
        parser.add_argument(name, type=int)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layout", default="nhwc")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = WideResNet(args.depth, args.width, 100).eval()
    x = torch.randn(args.batch, 3, 32, 32)
    if args.layout == "nhwc":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(2 + args.steps):
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times[2:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"layout": args.layout, "seconds_per_step": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
