"""Writes family.safetensors: steps of the SAM family on small parameters, computed by PyTorch in float64 from the papers'
formulas.

    python make_family_fixtures.py

initial/{name}                       the parameters every case starts from
data/{x,y}                           what the loss, the mean squared error of tanh(x weight + bias) · scale, is computed on
{case}/{step}/after/{name}           the parameters after that step
{case}/{step}/climbed                1 where the step had a second pass
{case}/memory/{name}                 what is remembered after the last step, where the case remembers something

The cases are those of tests/all/family.rs under the same names. Every case has SGD with momentum 0.9 and weight decay 0.01 at
a learning rate of 0.1, but msam_adamw, which has AdamW at 0.01.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS = 6
SHAPES = {"weight": (3, 4), "bias": (4,), "scale": (4,)}
EPSILON = 1e-12
CASES = {
    "asam": dict(rho=0.5, eta=0.01, biases=False),
    "adaptive": dict(rho=0.5, eta=0.0, biases=True),
    "tensor": dict(rho=0.1, by_tensor=True),
    "usam": dict(rho=0.5, normalize=False),
    "infinite": dict(rho=0.02, p=float("inf"), eta=0.1, biases=True),
    "three": dict(rho=0.1, p=3.0),
    "subset": dict(rho=0.5, subset=("scale", "bias")),
    "radii": dict(rho=0.1, radii={"scale": 0.3}),
    "every": dict(rho=0.1, every=3),
    "late": dict(rho=0.1, late=2),
    "fsam": dict(rho=0.1, friendly=(1.0, 0.6)),
    "vasso": dict(rho=0.1, averaged=0.4),
    "gsam": dict(rho=0.1, gap=0.4),
    "wsam": dict(rho=0.1, gamma=0.6),
    "wsam_decoupled": dict(rho=0.1, gamma=0.6, decoupled=True),
    "aesam": dict(rho=0.1, adaptive_steps=(0.5, -1.0, 1.0, 6)),
    "looksam": dict(rho=0.1, look=(3, 0.7)),
    "msam": dict(rho=0.3, momentum=True),
    "msam_adamw": dict(rho=0.3, momentum=True, adamw=True),
    "clip": dict(rho=0.1, clip=0.05),
    "no_decay": dict(rho=0.1, no_decay=("bias", "scale")),
    "micro": dict(rho=0.1, parts="each"),
    "gathered": dict(rho=0.1, parts="all"),
}


def dot(a, b):
    return sum((a[n] * b[n]).sum() for n in a)


def mix(x, a, y, b):
    return {n: x * a[n] + y * b[n] for n in a}


class Case:
    def __init__(self, out, options):
        self.o = options
        self.p = {n: torch.nn.Parameter(out[f"initial/{n}"].clone()) for n in SHAPES}
        self.x, self.y = out["data/x"], out["data/y"]
        spared = self.o.get("no_decay", ())
        groups = [dict(params=[p for n, p in self.p.items() if n not in spared])]
        if spared:
            groups.append(dict(params=[self.p[n] for n in spared], weight_decay=0.0))
        if self.o.get("adamw"):
            self.base = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.01)
        else:
            self.base = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
        self.memory, self.mean, self.variance, self.t = None, 0.0, 0.0, 0

    def gradient(self, rows=slice(None)):
        p = self.p
        loss = ((torch.tanh(self.x[rows] @ p["weight"] + p["bias"]) * p["scale"] - self.y[rows]) ** 2).mean()
        return dict(zip(p, torch.autograd.grad(loss, list(p.values()))))

    def ascent(self, a):
        o, p = self.o, float(self.o.get("p", 2.0))
        q = 1.0 if p == float("inf") else p / (p - 1)
        sizes = {}
        for n, w in self.p.items():
            w = w.detach()
            if o.get("by_tensor"):
                sizes[n] = torch.full_like(w, w.norm().item())
            elif "eta" in o and (o["biases"] or n != "bias"):
                sizes[n] = w.abs() + o["eta"]
            else:
                sizes[n] = torch.ones_like(w)
        on = o.get("subset", tuple(self.p))
        u = {n: sizes[n] * a[n] * float(n in on) for n in a}
        norm = sum((v.abs() ** q).sum() for v in u.values()) ** (1 / p)
        scale = 1.0 / (norm + EPSILON) if o.get("normalize", True) else 1.0
        radius = {n: o.get("radii", {}).get(n, o["rho"]) for n in a}
        return {n: radius[n] * scale * sizes[n] * u[n].sign() * u[n].abs() ** (q - 1) for n in a}

    def at(self, e, f):
        old = {n: w.detach().clone() for n, w in self.p.items()}
        with torch.no_grad():
            for n, w in self.p.items():
                w += e[n]
        found = f()
        with torch.no_grad():
            for n, w in self.p.items():
                w.copy_(old[n])
        return found

    def direction(self, g):
        if "friendly" in self.o:
            sigma, keep = self.o["friendly"]
            a = g if self.memory is None else mix(1, g, -sigma, self.memory)
            self.memory = g if self.memory is None else mix(keep, self.memory, 1 - keep, g)
            return a
        if "averaged" in self.o:
            theta = self.o["averaged"]
            self.memory = g if self.memory is None else mix(1 - theta, self.memory, theta, g)
            return self.memory
        return g

    def climbs(self, g):
        o = self.o
        if "every" in o:
            return self.t % o["every"] == 0
        if "look" in o:
            return self.t % o["look"][0] == 0
        if "late" in o:
            return self.t >= o["late"]
        if "adaptive_steps" in o:
            keep, one, two, steps = o["adaptive_steps"]
            s = float(dot(g, g))
            self.mean = keep * self.mean + (1 - keep) * s
            self.variance = keep * self.variance + (1 - keep) * (s - self.mean) ** 2
            done = (self.t + 1) / steps
            return s >= self.mean + (one * done + two * (1 - done)) * self.variance ** 0.5
        return True

    def step(self):
        """Takes a step and says whether it had a second pass."""
        o, climbs = self.o, True
        if o.get("momentum"):
            key = "exp_avg" if o.get("adamw") else "momentum_buffer"
            v = {n: self.base.state[w].get(key) for n, w in self.p.items()}
            v = {n: torch.zeros_like(w) if v[n] is None else v[n].clone() for n, w in self.p.items()}
            d, climbs = self.at({n: -e for n, e in self.ascent(v).items()}, self.gradient), False
        elif o.get("parts") == "each":
            parts = (slice(0, 4), slice(4, 6))
            each = [self.at(self.ascent(self.gradient(rows)), lambda: self.gradient(rows)) for rows in parts]
            d = mix(4 / 6, each[0], 2 / 6, each[1])
        else:
            # Gradients of micro-batches, weighted by their sizes, are those of the batch.
            g1 = self.gradient()
            climbs = self.climbs(g1)
            g2 = self.at(self.ascent(self.direction(g1)), self.gradient) if climbs else None
            d = g2 if climbs else g1
            if "gap" in o:
                c = dot(g1, g2) / (dot(g2, g2) + EPSILON)
                d = mix(1 + o["gap"] * c, g2, -o["gap"], g1)
            if "gamma" in o:
                kappa = o["gamma"] / (1 - o["gamma"])
                d = g1 if o.get("decoupled") else mix(1 - kappa, g1, kappa, g2)
            if "look" in o and climbs:
                self.memory = mix(1, g2, -dot(g1, g2) / (dot(g1, g1) + EPSILON), g1)
            elif "look" in o:
                length = dot(g1, g1).sqrt() / (dot(self.memory, self.memory).sqrt() + EPSILON)
                d = mix(1, g1, o["look"][1] * length, self.memory)
        if "clip" in o:
            d = {n: g * min(1.0, o["clip"] / (float(dot(d, d)) ** 0.5 + 1e-6)) for n, g in d.items()}
        for n, w in self.p.items():
            w.grad = d[n].clone()
        self.base.step()
        if o.get("decoupled"):
            with torch.no_grad():
                for n, w in self.p.items():
                    w -= 0.1 * kappa * (g2[n] - g1[n])
        self.t += 1
        return climbs


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    out = {f"initial/{name}": torch.randn(shape) for name, shape in SHAPES.items()}
    out["data/x"], out["data/y"] = torch.randn(6, 3), torch.randn(6, 4)
    for name, options in CASES.items():
        case = Case(out, options)
        for step in range(STEPS):
            climbed = case.step()
            out[f"{name}/{step}/climbed"] = torch.tensor(float(climbed))
            out.update({f"{name}/{step}/after/{n}": w.detach().clone() for n, w in case.p.items()})
        if case.memory is not None:
            out.update({f"{name}/memory/{n}": m.clone() for n, m in case.memory.items()})
    save_file({key: value.contiguous() for key, value in out.items()}, Path(__file__).with_name("family.safetensors"))


if __name__ == "__main__":
    main()
