#!/usr/bin/env python3
"""The same SAM step in plain PyTorch: times it on random images and prints one JSON line, as `throughput` does.

usage: torch_peer.py DEPTH WIDTH BATCH [options]     time a training step, or with --forward an evaluation
       torch_peer.py --check FILE.safetensors ...    repeat the steps of golden files in float64 and compare

Only PyTorch is needed. `testdata/make_golden.py` takes the network, the loss and the step from here, and `--check` holds
that what is timed is what the golden files contain.
"""
import argparse
import json
import math
import pathlib
import resource
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

CLASSES, RHO, SMOOTHING = 100, 0.1, 0.1
SGD = {"base": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
# The golden files are float64 results stored as float32.
TOLERANCE = 1e-5


def convolution(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Unit(nn.Module):
    """A pre-activation residual unit of two 3x3 convolutions. With `inputs`, it is the first unit of its group: both
    branches read the activation, and a 1x1 convolution projects the shortcut."""

    def __init__(self, outputs, stride=1, inputs=None):
        super().__init__()
        self.projects = inputs is not None
        first = convolution(inputs or outputs, outputs, 3, stride)
        norms = [nn.BatchNorm2d(inputs or outputs), nn.BatchNorm2d(outputs)]
        last = convolution(outputs, outputs, 3)
        if self.projects:
            self.norm_act = nn.ModuleDict({"0_normalization": norms[0]})
            self.block = nn.ModuleDict({"0_convolution": first, "1_normalization": norms[1], "4_convolution": last})
            self.downsample = convolution(inputs, outputs, 1, stride)
        else:
            self.block = nn.ModuleDict(
                {"0_normalization": norms[0], "2_convolution": first, "3_normalization": norms[1], "6_convolution": last}
            )

    def forward(self, x):
        if self.projects:
            first, between, last = self.block.values()
            x = F.relu(self.norm_act["0_normalization"](x), inplace=True)
            return last(F.relu(between(first(x)), inplace=True)) + self.downsample(x)
        before, first, between, last = self.block.values()
        y = F.relu(before(x), inplace=True)
        return x + last(F.relu(between(first(y)), inplace=True))


class Group(nn.Module):
    """Units of one width; the first may halve the image."""

    def __init__(self, inputs, outputs, stride, units):
        super().__init__()
        rest = (Unit(outputs) for _ in range(units - 1))
        self.block = nn.Sequential(Unit(outputs, stride, inputs), *rest)

    def forward(self, x):
        return self.block(x)


class WideResNet(nn.Module):
    """WRN-depth-width for images of 32x32 (arXiv 1605.07146)."""

    def __init__(self, depth, width, classes):
        super().__init__()
        if depth <= 4 or depth % 6 != 4:
            raise ValueError(f"depth {depth} is not 6n + 4")
        units = (depth - 4) // 6
        self.f = nn.ModuleDict(
            {
                "0_convolution": convolution(3, 16, 3),
                "1_block": Group(16, 16 * width, 1, units),
                "2_block": Group(16 * width, 32 * width, 2, units),
                "3_block": Group(32 * width, 64 * width, 2, units),
                "4_normalization": nn.BatchNorm2d(64 * width),
                "8_classification": nn.Linear(64 * width, classes),
            }
        )

    def forward(self, x):
        stem, one, two, three, normalization, classification = self.f.values()
        x = F.relu(normalization(three(two(one(stem(x))))), inplace=True)
        return classification(x.mean((2, 3)))


def smooth_cross_entropy(logits, labels, smoothing):
    """KL(q || softmax(logits)) for each sample: q is 1 - smoothing at the label and smoothing / (classes - 1) elsewhere."""
    target = torch.full_like(logits, smoothing / (logits.shape[1] - 1))
    target.scatter_(1, labels.unsqueeze(1), 1 - smoothing)
    return F.kl_div(F.log_softmax(logits, 1), target, reduction="none").sum(1)


def base_optimizer(parameters, config):
    if config["base"] == "sgd":
        names = ("lr", "momentum", "nesterov", "weight_decay")
        return torch.optim.SGD(parameters, **{name: config[name] for name in names})
    return torch.optim.AdamW(parameters, lr=config["lr"], weight_decay=config["weight_decay"], betas=(0.9, 0.999), eps=1e-8)


def freeze_running_statistics(model, frozen):
    """With momentum 0 a pass in training mode leaves the running statistics as they are."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0 if frozen else 0.1


@torch.no_grad()
def ascend(parameters, rho, adaptive):
    """w <- w + e(w), the ascent of SAM (arXiv 2010.01412) or ASAM (arXiv 2102.11600); returns the old values."""
    old = [parameter.clone() for parameter in parameters]
    directions = [parameter.grad for parameter in parameters]
    if adaptive:
        directions = torch._foreach_mul(directions, torch._foreach_abs(parameters))
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(directions)))
    if adaptive:
        directions = torch._foreach_mul(directions, torch._foreach_abs(parameters))
    torch._foreach_add_(parameters, torch._foreach_mul(directions, rho / (norm + 1e-12)))
    return old


def sam_step(model, optimizer, images, labels, *, rho, adaptive=False, smoothing, autocast=None, observe=None):
    """One step: gradient at w, ascent, gradient at w + e, back to w, the optimizer's step. `observe(stage, logits, losses)`
    is called after each of the two backward passes ("first", "second") and after the ascent ("ascended")."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    observe = observe or (lambda *_: None)

    def forward_backward(stage):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            logits = model(images)
        losses = smooth_cross_entropy(logits if autocast is None else logits.float(), labels, smoothing)
        losses.mean().backward()
        observe(stage, logits, losses)

    forward_backward("first")
    old = ascend(parameters, rho, adaptive)
    observe("ascended", None, None)
    freeze_running_statistics(model, True)
    forward_backward("second")
    freeze_running_statistics(model, False)
    with torch.no_grad():
        torch._foreach_copy_(parameters, old)
    optimizer.step()


def timed_work(args, device):
    """What a single timed run does, as a function."""
    if args.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    torch.backends.cudnn.benchmark = True
    autocast = torch.bfloat16 if args.precision == "bf16" else None
    layout = torch.channels_last if args.layout == "nhwc" else torch.contiguous_format
    torch.manual_seed(17)
    model = WideResNet(args.depth, args.width, CLASSES).to(device, memory_format=layout)
    images = torch.randn(args.batch, 3, 32, 32).to(device, memory_format=layout)
    labels = torch.randint(CLASSES, (args.batch,)).to(device)
    optimizer = base_optimizer(model.parameters(), SGD)
    run = torch.compile(model) if args.compile else model
    if not args.forward:
        return lambda: sam_step(run, optimizer, images, labels, rho=RHO, smoothing=SMOOTHING, autocast=autocast)
    run.eval()

    def forward():
        with torch.inference_mode(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            run(images)

    return forward


def measure(args):
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    work = timed_work(args, device)
    times = []
    for _ in range(args.warmup + args.steps):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    times = times[args.warmup :]
    median = statistics.median(times)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = {
        "torch": torch.__version__,
        **{key: getattr(args, key) for key in ("depth", "width", "batch")},
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        **{key: getattr(args, key) for key in ("layout", "precision", "compile")},
        "seconds_per_step": median,
        "min_seconds": min(times),
        "images_per_second": args.batch / median,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if cuda else resident,
    }
    print(json.dumps(line))


def read_safetensors(path):
    """The tensors and the metadata of a safetensors file: a length of 8 bytes, a JSON header, the values."""
    data = bytearray(pathlib.Path(path).read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})

    def tensor(entry):
        begin, end = entry["data_offsets"]
        values = torch.frombuffer(data[8 + length + begin : 8 + length + end], dtype=DTYPES[entry["dtype"]])
        return values.reshape(entry["shape"])

    return {name: tensor(entry) for name, entry in header.items()}, metadata


def difference(found, expected):
    """max |found - expected| / max |expected|; infinite where a value is NaN."""
    expected = expected.double()
    error = ((found.detach().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    return math.inf if math.isnan(error) else error


def check(path):
    """Repeats a golden file's steps in float64; whether all losses, gradients and states in it agree."""
    tensors, metadata = read_safetensors(path)
    config = json.loads(metadata["config"])
    model = WideResNet(config["depth"], config["width"], config["labels"]).double()
    model.load_state_dict({name.removeprefix("init/"): t for name, t in tensors.items() if name.startswith("init/")})
    optimizer = base_optimizer(model.parameters(), config)
    errors = {name: math.inf for name in tensors if name.startswith("step") and not name.endswith(("/x", "/y"))}

    def compare(prefix, values):
        for key, found in values.items():
            if (name := f"{prefix}{key}") in errors:
                errors[name] = difference(found, tensors[name])

    for step in range(1, config["steps"] + 1):

        def observe(stage, logits, losses):
            if stage == "ascended":
                return compare(f"step{step}/perturbed/", dict(model.named_parameters()))
            suffix = "2" if stage == "second" else ""
            compare(f"step{step}/", {f"logits{suffix}": logits, f"loss{suffix}": losses})
            compare(f"step{step}/grad{suffix or 1}/", {name: p.grad for name, p in model.named_parameters()})

        images, labels = tensors[f"step{step}/x"].double(), tensors[f"step{step}/y"]
        options = {name: config[name] for name in ("rho", "adaptive", "smoothing")}
        sam_step(model, optimizer, images, labels, **options, observe=observe)
        compare(f"step{step}/after/", model.state_dict())
    worst = max(errors, key=errors.get)
    agrees = errors[worst] <= TOLERANCE
    print(json.dumps({"file": str(path), "tensors": len(errors), "largest_error": errors[worst], "in": worst, "ok": agrees}))
    return agrees


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("depth", "width", "batch"):
        parser.add_argument(name, type=int, nargs="?")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them that are not timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--layout", choices=["nchw", "nhwc"], default="nhwc")
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32", help="bf16: autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--forward", action="store_true", help="an evaluation instead of a training step")
    parser.add_argument("--check", nargs="+", metavar="FILE", help="golden files to repeat")
    args = parser.parse_args()
    if args.check:
        torch.set_num_threads(args.threads)
        return 0 if all([check(path) for path in args.check]) else 1
    if args.batch is None:
        parser.error("DEPTH, WIDTH and BATCH are needed")
    return measure(args)


if __name__ == "__main__":
    sys.exit(main())
