"""Short scripts that show what was proven wrong, with diffusers, torch and numpy alone."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from .report import CheckResult, Report

HEAD = '''"""diffusers {release}: {name}, {check}.
{text}"""
import diffusers, numpy as np, torch

M, V = {mean}, {variance}  # the data are {law}: the exact network is known
def make(**more):
    return diffusers.{name}(**{{**{options}, **more}})
'''

NETWORK = """
def level(s, t):  # alpha and sigma that the network was trained with at time t
    {level}

def network(s, x, t):
    a, r = level(s, t)
    x0 = M + a * V / (a * a * V + r * r) * (x.double() - a * M)
    eps = (x.double() - a * x0) / r
    return {out}

def run(s, n{takes}):
    s.set_timesteps(n)
    g, states = torch.Generator().manual_seed({seed}), []
    draw = lambda: torch.randn(4096, 1, 2, 2, dtype=torch.float64, generator=g)
    for i, t in enumerate(s.timesteps{begin}):
        if i == 0:  # the exact law of the first time, in the scale that the scheduler works in
            (a, r), c = level(s, t), {scale}
            x = (a * (M + V**0.5 * draw()) + r * draw()) / c
        states.append(x)
        x = s.step(network(s, {given}, t){nudge}, t, x{generator}).prev_sample
    return states + [x]

"""

LEVELS = {
    "table": "b = s.alphas_cumprod.double().numpy()\n"
    "    r = np.exp(np.interp(float(t), np.arange(len(b)), np.log((1 - b) / b) / 2))\n"
    "    return 1 / (1 + r * r) ** 0.5, r / (1 + r * r) ** 0.5",
    "flow": "return 1 - float(t) / s.config.num_train_timesteps, float(t) / s.config.num_train_timesteps",
    "angle": "return np.cos(float(t) * np.pi / 2), np.sin(float(t) * np.pi / 2)",
}

OUTPUTS = {"eps": "eps", "x0": "x0", "v": "a * eps - r * x0", "flow": "eps - x0"}

BODIES = {
    "finite": """for n in {counts}:
    try:
        print(n, "steps: finite", bool(run(make(), n)[-1].isfinite().all()))
    except Exception as error:
        print(n, "steps:", type(error).__name__, error)
""",
    "wasted": """plain = run(make(), 10)[-1]
for i in range(len(run(make(), 10)) - 1):
    moved = float((run(make(), 10, nudge=i)[-1] - plain).abs().max())
    print("evaluation", i + 1, "changed by 0.01 moves samples by", moved)
""",
    "training noise": """s = make()  # as in training: no set_timesteps
for t in ({most}, 0):
    zero, one = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    a = float(s.add_noise(one, zero, torch.tensor([t])).flatten()[0])
    r = float(s.add_noise(zero, one, torch.tensor([t])).flatten()[0])
    bar = float(s.alphas_cumprod[t])
    right = ((1 - bar) / bar) ** 0.5
    print(f"t = {{t}}: {{a:.4f}} x_0 + {{r:.4f}} noise, sigma/alpha {{r / a:.4g}}; it should be {{right:.4g}}")
""",
    "add noise": """s = make()
s.set_timesteps(10)
zero, one = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
for t in s.timesteps[::{every}]:
    r = s.scale_noise(zero, t[None], one) if hasattr(s, "scale_noise") else s.add_noise(zero, one, t[None])
    print(f"time {{float(t):.4g}}: share of noise {{float(r.flatten()[0]):.4f}}")
""",
    "moments": """for n in (10, 50, 500):
    x = run(make(), n)[-1].double()
    print(n, "steps: variance", float(x.var()), "of", V, "; mean", float(x.mean()), "of", M)
""",
    "ending": """for n in (10, 20, 50):
    s = make()
    x = run(s, n)[-1].double()
    print(n, "steps: sigmas end with", s.sigmas[-2:].tolist(), "; data", M, ", samples", M, "+-", float(x.std()))
""",
    "levels": """for n in (7, 10):
    s = make()
    states, times = run(s, n, begin=n // 2), s.timesteps[n // 2 :]
    (a0, r0), (a, r) = level(s, times[0]), level(s, times[1])
    eps = (states[0] - a0 * M) / r0  # all data are M: the noise is known
    slope, rest = np.polyfit(eps.flatten().numpy(), states[1].flatten().numpy(), 1)
    print(n, "steps, times", s.timesteps.tolist(), ": a step from", int(times[0]))
    print(f"leads to sigma/alpha = {{slope * M / rest:.4g}}; at the time asked next it is {{r / a:.4g}}")
""",
    "order": """for n in (64, 128, 256):
    s = make({finer})
    states = run(s, n)
    ratio = lambda l: l[1] / l[0] if l[0] > 0 else np.inf
    i = int(np.argmin([abs(ratio(level(s, t)) - 0.3) for t in s.timesteps]))
    (a0, r0), (a, r) = level(s, s.timesteps[0]), level(s, s.timesteps[i])
    exact = a * M + ((a * a * V + r * r) / (a0 * a0 * V + r0 * r0)) ** 0.5 * (states[0] - a0 * M)  # of normal data
    print(n, "steps: error at sigma/alpha = 0.3:", float((states[i] - exact).abs().median()))
""",
    "entry": """whole, half = run(make(), 20), run(make(), 20, begin={every} * 10)
print("standard deviation of samples begun at the first step:", float(whole[-1].std()))
print("begun half-way:", float(half[-1].std()), "; it should be", V**0.5)
""",
    "seeds": """one, two = (run(make(), 10, seed=1)[-1] for _ in range(2))
print("two runs with generators of one seed differ by", float((one - two).abs().max()))
""",
}
"""What shows the figure of a check."""

ALIASES = {"one step": "finite", "law": "moments"}


def script(name: str, options: Mapping[str, Any], report: Report, row: CheckResult) -> str | None:
    """The script that shows a row of a scheduler of diffusers; None if the check has none.

    Args:
        name: of the class.
        options: its settings.
        report: of the whole.
        row: which is WRONG.
    """
    import diffusers

    check = ALIASES.get(row.check, row.check)
    family, prediction = report.about.get("family"), report.about.get("prediction")
    if check not in BODIES or family not in LEVELS or prediction not in OUTPUTS:
        return None
    made = getattr(diffusers, name)(**options)
    point = check in ("levels", "ending")
    scaled = hasattr(made, "scale_model_input")
    generator = ", generator=g" if "generator" in inspect.signature(type(made).step).parameters else ""
    text = f"{row.figure}; expected: {row.expected}." if row.expected else f"{row.figure}."
    head = HEAD.format(
        release=diffusers.__version__,
        name=name,
        check=row.check,
        text=textwrap.fill(text, 110),
        mean=0.3,
        variance=0.0 if point else 0.04,
        law="the point M" if point else "N(M, V)",
        options=dict(options),
    )
    if check in ("training noise", "add noise"):
        network = "\n"
        head = "\n".join(line for line in head.splitlines() if not line.startswith("M, V")) + "\n"
    else:
        network = NETWORK.format(
            level=LEVELS[str(family)],
            out=OUTPUTS[str(prediction)],
            scale="float(s.scale_model_input(torch.ones(1), t))" if scaled else "1.0",
            takes={"wasted": ", nudge=None", "entry": ", begin=0", "levels": ", begin=0", "seeds": ", seed=0"}.get(
                check, ""
            ),
            seed="seed" if check == "seeds" else "0",
            begin="[begin:]" if check in ("entry", "levels") else "",
            nudge=" + 0.01 * (i == nudge)" if check == "wasted" else "",
            given="s.scale_model_input(x, t)" if scaled else "x",
            generator=generator,
        )
    config = dict(made.config)
    finer: dict[str, Any] = {}
    if check == "order" and family == "table":
        finer = {"num_train_timesteps": 10 * config["num_train_timesteps"]}
        finer |= {key: config[key] / 10 for key in ("beta_start", "beta_end") if key in config}
    body = BODIES[check].format(
        counts=(1, 2, 10, 999, 1000) if row.check == "finite" else (1, 2),
        most=int(config.get("num_train_timesteps", 1000)) - 1,
        every=int(getattr(made, "order", 1)),
        finer=", ".join(f"{k}={v!r}" for k, v in finer.items()),
    )
    return head + network + body
