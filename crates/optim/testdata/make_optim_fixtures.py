"""Writes optim.safetensors: what PyTorch's optimizers, alone and within SAM, make of small parameters (float64).

    python make_optim_fixtures.py

initial/{name}                      the parameters every case starts from
gradient/{step}/{name}              the gradients of the plain cases; a missing one is None to PyTorch
{case}/{step}/{name}                the parameters after that step, for each of the plain cases
data/{x,y}                          what the loss of the SAM cases, `model_loss`, is computed on
{case}/{step}/{loss,perturbed/{name},after/{name}}   each of the SAM cases
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS = 5
SHAPES = {"weight": (3, 4), "bias": (4,), "scale": (2,)}

PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "sgd_dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.01),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p),
    "adamw_other": lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
}
# rho, adaptive, base
SAM = {
    "sam_sgd": (0.05, False, PLAIN["sgd_momentum"]),
    "asam_sgd": (0.5, True, PLAIN["sgd_momentum"]),
    "sam_adamw": (0.1, False, PLAIN["adamw_other"]),
}


def model_loss(p, x, y):
    """Mean squared error of tanh(x weight + bias); `scale` takes no part, so its gradient is None."""
    return (torch.tanh(x @ p["weight"] + p["bias"]) - y).square().mean()


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    out = {f"initial/{name}": torch.randn(shape) for name, shape in SHAPES.items()}
    for step in range(STEPS):
        for name, shape in SHAPES.items():
            if (step, name) not in {(0, "bias"), (2, "bias"), (3, "scale")}:
                out[f"gradient/{step}/{name}"] = torch.randn(shape)
    out["data/x"], out["data/y"] = torch.randn(6, 3), torch.randn(6, 4)

    def fresh():
        return {name: torch.nn.Parameter(out[f"initial/{name}"].clone()) for name in SHAPES}

    for case, make in PLAIN.items():
        p = fresh()
        optimizer = make(p.values())
        for step in range(STEPS):
            for name in p:
                p[name].grad = out.get(f"gradient/{step}/{name}")
            optimizer.step()
            out.update({f"{case}/{step}/{name}": p[name].detach().clone() for name in p})

    for case, (rho, adaptive, make) in SAM.items():
        p = fresh()
        optimizer = make(p.values())
        for step in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = model_loss(p, out["data/x"], out["data/y"])
            loss.backward()
            out[f"{case}/{step}/loss"] = loss.detach()
            with torch.no_grad():
                moved = [w for w in p.values() if w.grad is not None]
                unit = [w.abs() if adaptive else torch.ones_like(w) for w in moved]
                norm = sum((u * w.grad).square().sum() for u, w in zip(unit, moved)).sqrt()
                old = [w.clone() for w in moved]
                for u, w in zip(unit, moved):
                    w += rho * u * u * w.grad / (norm + 1e-12)
            out.update({f"{case}/{step}/perturbed/{name}": p[name].detach().clone() for name in p})
            optimizer.zero_grad(set_to_none=True)
            model_loss(p, out["data/x"], out["data/y"]).backward()
            with torch.no_grad():
                for before, w in zip(old, moved):
                    w.copy_(before)
            optimizer.step()
            out.update({f"{case}/{step}/after/{name}": p[name].detach().clone() for name in p})

    save_file(out, Path(__file__).with_name("optim.safetensors"))


if __name__ == "__main__":
    main()
