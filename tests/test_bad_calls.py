"""Bad calls of the public functions: each ends in one sentence of this library that names the argument.

It is one file, of more than 400 lines, since it is one table of calls and the few tests that go through it.
"""

from __future__ import annotations

import math
import re
import traceback
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import langevin
from langevin import data as A
from langevin import denoisers as D
from langevin import guidance as G
from langevin import likelihood as L
from langevin import metrics as M
from langevin import models as MO
from langevin import processes as P
from langevin import samplers as S
from langevin import training as T
from langevin import worlds as W
from langevin.samplers import grids as GR

SOURCE = Path(langevin.__file__).parent
INTERNALS = re.compile(
    "not supported between|has no attribute|must be real number|invalid data type|is not (callable|iterable|a mapping)|"
    "positional argument|unsupported operand|could not convert|has no len|invalid combination|object cannot be"
)
"""What Python and torch say of themselves, which helps nobody who calls this library."""

nan, inf = math.nan, math.inf
world, vp, net = W.ring(4), P.VP(), torch.nn.Linear(2, 2)
phase, gamma, tokens, ids = P.PhaseSpace(), P.GammaNoise(), P.Absorbing(3), torch.arange(3)[:, None]
den, pts, ND = world.denoiser(vp), world.sample(64), D.NetworkDenoiser


towers = langevin.nn.DualEncoder(
    embedding=8, image={"name": "mlp", "channels": 2, "width": 8}, text={"caption": 9, "width": 8}
)
enc = D.ContrastiveEncoder(towers, vp, A.DataInfo("dots", (2,), low=None, high=None), 1.0)
phase_den = world.denoiser(phase)


class Net(torch.nn.Module):
    """A network with labels."""

    config = types.MappingProxyType({"conditions": {"label": 3}})

    def forward(self, x, t, condition=None):
        return x


class Out(Net):
    """A network that answers as those of diffusers do."""

    def forward(self, x, t, condition=None):
        return types.SimpleNamespace(sample=x)


model = ND(Net(), vp, D.AffineParameterization("edm"), (2,))
USED = (math, np, A, G, L, M, MO, S, T, GR)
"""What only the texts of calls use."""

CALLS = [
    ("langevin.sample(None)", "denoiser"),
    ('langevin.sample("runs/demo/model")', "denoiser"),
    ('langevin.sample(Path("runs"))', "denoiser"),
    ("langevin.sample(net)", "denoiser"),
    ("langevin.sample(W.ring)", "denoiser"),
    ("langevin.sample(world)", "denoiser"),
    ("langevin.sample(den, S.DDIM)", "sampler"),
    ("langevin.sample(den, S.GaussianRemainder)", "sampler"),
    ("langevin.sample(den, tolerance=0)", "tolerance"),
    ('langevin.sample(den, tolerance="fine")', "tolerance"),
    ("langevin.sample(den, tolerance=0.1, steps=3)", "tolerance"),
    ("S.choose_steps(den, nan)", "tolerance"),
    ("S.choose_steps(world, 0.1)", "denoiser"),
    ("langevin.sample(den, 3)", "sampler"),
    ('langevin.sample(den, "dimm")', "sampler"),
    ('langevin.sample(den, None, n="3")', "n"),
    ("langevin.sample(den, n=3.0)", "n"),
    ("langevin.sample(den, n=True)", "n"),
    ("langevin.sample(den, n=-1)", "n"),
    ("langevin.sample(den, n=nan)", "n"),
    ("langevin.sample(den, n=np.array(3))", "n"),
    ('langevin.sample(den, steps="10")', "steps"),
    ("langevin.sample(den, steps=10.0)", "steps"),
    ("langevin.sample(den, steps=0)", "steps"),
    ("langevin.sample(den, steps=True)", "steps"),
    ("langevin.sample(den, steps=[10])", "steps"),
    ("langevin.sample(den, grid=5)", "grid"),
    ('langevin.sample(den, grid="karas")', "grid"),
    ("langevin.sample(den, grid=GR.karras)", "grid"),
    ('langevin.sample(den, grid=[1.0, "a"])', "grid"),
    ("langevin.sample(den, grid=[])", "grid"),
    ("langevin.sample(den, grid=[1.0,nan,0.0])", "grid"),
    ("langevin.sample(den, grid=None, steps=nan)", "steps"),
    ("langevin.sample(den, start=3)", "start"),
    ("langevin.sample(den, start=np.zeros((4,2)))", "start"),
    ("langevin.sample(den, start=torch.zeros(4,3))", "start"),
    ("langevin.sample(den, start=torch.zeros(2))", "start"),
    ("langevin.sample(den, start=torch.zeros(4,2,2))", "start"),
    ("langevin.sample(den, start=torch.zeros(()))", "start"),
    ('langevin.sample(den, seed="0")', "seed"),
    ("langevin.sample(den, seed=-1)", "seed"),
    ("langevin.sample(den, seed=1.5)", "seed"),
    ("langevin.sample(den, seed=None)", "seed"),
    ("langevin.sample(den, seed=True)", "seed"),
    ("langevin.sample(den, seed=2**64)", "seed"),
    ("langevin.sample(den, noise=3)", "noise"),
    ("langevin.sample(den, noise=torch.zeros(4,2))", "noise"),
    ('langevin.sample(den, noise="x")', "noise"),
    ("langevin.sample(den, noise=langevin.Noise)", "noise"),
    ('langevin.sample(den, batch="3")', "batch"),
    ("langevin.sample(den, batch=0)", "batch"),
    ("langevin.sample(den, batch=2.5, n=4)", "batch"),
    ("langevin.sample(den, batch=None)", "batch"),
    ("langevin.sample(den, batch=True)", "batch"),
    ("langevin.sample(den, progress=3)", "progress"),
    ('langevin.sample(den, progress="bar")', "progress"),
    ("list(langevin.trajectory(den, S.DDIM, grid=[1.0,0.0], start=torch.zeros(2,2)))", "sampler"),
    ('list(langevin.trajectory(den, "ddim", grid=[1.0,0.0], start=torch.zeros(2,2)))', "sampler"),
    ("list(langevin.trajectory(den, None, grid=[1.0,0.0], start=torch.zeros(2,2)))", "sampler"),
    ('list(langevin.trajectory("m", S.DDIM(), grid=[1.0,0.0], start=torch.zeros(2,2)))', "denoiser"),
    ('list(langevin.trajectory(den, S.DDIM(), grid="karras", start=torch.zeros(2,2)))', "grid"),
    ("list(langevin.trajectory(den, S.DDIM(), grid=[1.0,0.0], start=np.zeros((2,2))))", "start"),
    ("list(langevin.trajectory(den, S.DDIM(), grid=[1.0,0.0], start=torch.zeros(2,5)))", "start"),
    ("list(langevin.trajectory(den, S.DDIM(), grid=[1.0,0.0], start=torch.zeros(2)))", "start"),
    ("list(langevin.trajectory(den, S.DDIM(), grid=[1.0,0.0], start=None))", "start"),
    ("list(langevin.trajectory(den, S.DDIM(), grid=[1.0,0.0], start=torch.zeros(2,2), noise=3))", "noise"),
    ("list(langevin.trajectory(den, S.DDIM(), grid=None, start=torch.zeros(2,2)))", "grid"),
    ('S.DDIM("a")', "eta"),
    ("S.DDIM(nan)", "eta"),
    ("S.DDIM(-1)", "eta"),
    ("S.DDIM(None)", "eta"),
    ("S.DDIM(eta=2)", "eta"),
    ("S.DDIM(eta=True)", "eta"),
    ("S.DDIM().then(S.DDIM)", "sampler"),
    ('S.DDIM().then("ddim")', "sampler"),
    ("S.DDIM().then(None)", "sampler"),
    ('S.DDIM().repeat("2")', "times"),
    ("S.DDIM().repeat(0)", "times"),
    ("S.DDIM().repeat(1.5)", "times"),
    ("S.DDIM().repeat(True)", "times"),
    ('S.create_sampler("ddim", etaa=1)', "sampler"),
    ('S.create_sampler("ddim", eta="one")', "eta"),
    ("S.create_sampler(3)", "sampler"),
    ("S.create_sampler(None)", "sampler"),
    ("S.create_sampler(S.DDIM)", "sampler"),
    ('GR.karras(vp, "10")', "steps"),
    ("GR.karras(vp, 0)", "steps"),
    ("GR.karras(vp, 2.5)", "steps"),
    ("GR.karras(P.VP, 10)", "process"),
    ('GR.karras("vp", 10)', "process"),
    ("GR.karras(None, 10)", "process"),
    ('GR.karras(vp, 10, rho="a")', "rho"),
    ("GR.karras(vp, 10, rho=nan)", "rho"),
    ("GR.karras(vp, 10, rho=inf)", "rho"),
    ("GR.karras(P.Absorbing(3), 5)", "grid"),
    ('GR.uniform("vp", 5)', "process"),
    ("GR.uniform(P.VP, 5)", "process"),
    ("GR.uniform(vp, None)", "steps"),
    ("GR.log_snr(None, 5)", "process"),
    ("GR.quadratic(3, 5)", "process"),
    ("GR.leading(P.DDPM(), 2000)", "steps"),
    ("GR.leading(vp, 5)", "grid"),
    ("GR.leading(P.DDPM(), 5, offset=1.5)", "offset"),
    ('GR.leading(P.DDPM(), 5, offset="a")', "offset"),
    ("GR.leading(P.DDPM(), 5, offset=-5)", "offset"),
    ('GR.optimal(vp, 5, std="a")', "std"),
    ("GR.optimal(vp, 5, std=nan)", "std"),
    ("GR.optimal(vp, 5, candidates=1.5)", "candidates"),
    ('GR.optimal(vp, 5, candidates="a")', "candidates"),
    ("GR.dynamic(torch.zeros(3), torch.zeros(2,2), 1)", "cost"),
    ('GR.dynamic("a", torch.zeros(2,2), 1)', "times"),
    ('GR.dynamic([1.,.5,0.], "a", 1)', "times"),
    ("G.classifier_free(den)", "condition"),
    ("G.classifier_free(den, label=99)", "label"),
    ('G.classifier_free(den, label="3")', "label"),
    ('G.classifier_free(den, label=1, guidance_scale="2")', "guidance_scale"),
    ("G.classifier_free(den, label=1, guidance_scale=nan)", "guidance_scale"),
    ("G.classifier_free(den, label=1, guidance_scale=None)", "guidance_scale"),
    ("G.classifier_free(den, label=1, guidance_scale=[1,2])", "guidance_scale"),
    ("G.classifier_free(den, label=1, guidance_scale=torch.ones(2))", "guidance_scale"),
    ("G.classifier_free(den, label=1, guidance_scale=True)", "guidance_scale"),
    ('G.classifier_free("m", label=1)', "denoiser"),
    ("G.classifier_free(None, label=1)", "denoiser"),
    ("G.classifier_free(net, label=1)", "denoiser"),
    ("G.classifier_free(den, 3)", "condition"),
    ('G.classifier_free(den, "label")', "condition"),
    ("G.classifier_free(den, lable=3)", "condition"),
    ("G.linear([], [])", "weights"),
    ("G.linear([den(pts,0.5)], [1.0,2.0])", "weights"),
    ("G.linear(3, [1.0])", "beliefs"),
    ("G.linear([den], [1.0, 2.0])", "weights"),
    ('G.linear([den, "a"], [1.0, 2.0])', "beliefs"),
    ('G.linear([den], ["a"])', "weights"),
    ("G.linear([den], 3)", "weights"),
    ("G.classifier_free(den, label=1, guidance_scale=2.0, interval=(5.0, 0.3))", "interval"),
    ('G.classifier_free(den, label=1, guidance_scale=2.0, interval="a")', "interval"),
    ("G.classifier_free(den, label=1, guidance_scale=2.0, rescale=nan)", "rescale"),
    ("G.classifier_free(den, label=1, guidance_scale=2.0, negative=3)", "negative"),
    ('G.classifier(den, world.classifier(vp), label="a")', "label"),
    ("G.classifier(den, world.classifier(vp), label=1, scale=nan)", "scale"),
    ("G.classifier(den, None, label=1)", "classifier"),
    ("G.energy(den, None)", "loss"),
    ('G.energy(den, lambda x: x, scale="a")', "scale"),
    ("G.energy(None, lambda x: x)", "denoiser"),
    ('G.similarity(den, None, text="a")', "encoder"),
    ("G.similarity(den, enc)", "text"),
    ("G.similarity(den, enc, text=3)", "captions"),
    ("G.similarity(den, enc, text=[])", "captions"),
    ("G.similarity(den, enc, text=torch.zeros(2))", "caption"),
    ('G.similarity(den, enc, text="a", scale="a")', "scale"),
    ('G.similarity(den, enc, text="a", measure=3)', "measure"),
    ("G.similarity(den, enc, image=3)", "image"),
    ('G.similarity(phase_den, enc, text="a")', "guidance by a gradient"),
    ("G.clip_guidance(den, enc, torch.zeros(1, 8), torch.ones(1), grid=torch.ones(2))", "pictures"),
    ("enc.encode_image(3)", "x_t"),
    ("enc.encode_image(torch.zeros(2, 3))", "shape"),
    ('enc.logits(torch.zeros(2, 2), ["a", 3])', "texts"),
    ('M.retrieval("a")', "scores"),
    ("M.retrieval(torch.zeros(9, 9), among='a')", "among"),
    ("M.retrieval(torch.zeros(9, 9), 3)", "group"),
    ("M.retrieval(torch.zeros(9, 9), torch.zeros(3))", "group"),
    ("G.interval(den, den, None)", "interval"),
    ("G.interval(den, None, (0.3, 5.0))", "guided"),
    ("G.autoguidance(den, None, 2.0)", "weak"),
    ("G.autoguidance(den, den, None)", "guidance_scale"),
    ("G.apg(den, label=1, guidance_scale=nan)", "guidance_scale"),
    ("G.apg(den, label=1, guidance_scale=2.0, eta=None)", "eta"),
    ("G.cfg_plus_plus(den, label=1, scale=7.5, grid=[1.0, 0.0])", "scale"),
    ("G.cfg_plus_plus(den, label=1, scale=0.5, grid=None)", "grid"),
    ("G.cfg_zero_star(den, label=1, guidance_scale=2.0, zero_above=-1)", "zero_above"),
    ("G.conjunction(den, None)", "conditions"),
    ("G.negate(den, den, None)", "weight"),
    ("G.product([den, None])", "member 1"),
    ("G.product(None)", "members"),
    ("G.threshold(den, 99)", "percentile"),
    ("G.threshold(None)", "denoiser"),
    ('den.given(label="3")', "label"),
    ("den.given(label=1.5)", "label"),
    ("den.given(label=nan)", "label"),
    ("den.given(label=-7)", "label"),
    ("den.given(label=True)", "label"),
    ("den.given(label=[[1]])", "label"),
    ("den.given(3)", "condition"),
    ('den.given("label")', "condition"),
    ("den.given([1])", "condition"),
    ('model.given(label="3")', "label"),
    ('model.given(label=["a","b"])', "label"),
    ("model.given(label=1.5)", "label"),
    ("model.given(label=3)", "label"),
    ("model.given(label=True)", "label"),
    ("model.given(label=object())", "label"),
    ("model.given(vector=[1.0])", "condition"),
    ("den(pts, 2.0)", "t"),
    ("den(pts, nan)", "t"),
    ('den(pts, "a")', "t"),
    ("den(pts, None)", "t"),
    ("den(pts.numpy(), 0.5)", "x"),
    ('den("x", 0.5)', "x"),
    ("den(torch.zeros(3,5), 0.5)", "x"),
    ("den(torch.zeros(2), 0.5)", "x"),
    ("den(pts, torch.zeros(3))", "t"),
    ("den(pts, True)", "t"),
    ("model(pts, 2.0)", "t"),
    ("model(pts, nan)", "t"),
    ('model(pts, "a")', "t"),
    ("model(pts, None)", "t"),
    ("model(pts.numpy(), 0.5)", "x_t"),
    ('model("x", 0.5)', "x_t"),
    ("model(torch.zeros(3,5), 0.5)", "x_t"),
    ("model(torch.zeros(2), 0.5)", "x_t"),
    ("model(pts, torch.zeros(3))", "t"),
    ("model(pts, torch.tensor(5.0))", "t"),
    ("ND(lambda x,t: x, vp, D.AffineParameterization(), (2,))", "network"),
    ("ND(None, vp, D.AffineParameterization(), (2,))", "network"),
    ("ND(torch.nn.Linear, vp, D.AffineParameterization(), (2,))", "network"),
    ('ND(net, "vp", D.AffineParameterization(), (2,))', "process"),
    ("ND(net, P.VP, D.AffineParameterization(), (2,))", "process"),
    ('ND(net, vp, "eps", (2,))', "parameterization"),
    ("ND(net, vp, D.AffineParameterization, (2,))", "parameterization"),
    ("ND(net, vp, None, (2,))", "parameterization"),
    ("ND(net, vp, D.AffineParameterization(), None)", "shape"),
    ("ND(net, vp, D.AffineParameterization(), 2)", "shape"),
    ('ND(net, vp, D.AffineParameterization(), ("a",))', "shape"),
    ("ND(net, vp, D.AffineParameterization(), (2.0,))", "shape"),
    ("ND(net, vp, D.AffineParameterization(), (0,))", "shape"),
    ("ND(net, vp, D.AffineParameterization(), ())", "shape"),
    ("ND(net, vp, D.AffineParameterization(), (2,), variance=3)", "variance"),
    ("ND(net, vp, D.AffineParameterization(), (2,))(pts, 0.5)", "network"),
    ("D.AffineParameterization(3)", "prediction"),
    ("D.AffineParameterization(None)", "prediction"),
    ('D.AffineParameterization("eps", sigma_data="a")', "sigma_data"),
    ('D.AffineParameterization("eps", sigma_data=None)', "sigma_data"),
    ('D.AffineParameterization("eps", sigma_data=-1)', "sigma_data"),
    ('D.AffineParameterization("eps", time=3)', "time"),
    ('D.AffineParameterization("eps", time=None)', "time"),
    ('D.AffineParameterization("eps", scale_input="no")', "scale_input"),
    ('D.AffineParameterization("eps", scale_input=2)', "scale_input"),
    ('D.convert(den, "edm")', "process"),
    ("D.convert(den, P.EDM)", "process"),
    ('D.convert("m", P.EDM())', "denoiser"),
    ("D.clamp(den, 1, -1)", "low"),
    ('D.clamp(den, "a", 1)', "low"),
    ("D.clamp(den, nan, 1)", "low"),
    ('D.clamp("m")', "denoiser"),
    ("D.clamp(None)", "denoiser"),
    ('D.dirac("m")', "denoiser"),
    ("D.unit(None)", "denoiser"),
    ("D.gaussian(3)", "denoiser"),
    ('D.isotropic(den, "a")', "std"),
    ("D.isotropic(den, -1)", "std"),
    ("D.isotropic(den, nan)", "std"),
    ('D.isotropic("m", 1)', "denoiser"),
    ("D.compiled(den)", "denoiser"),
    ('D.compiled("m")', "denoiser"),
    ("D.TokenParameterization(3)", "prediction"),
    ('D.LevelParameterization(levels="a")', "levels"),
    ('D.LevelParameterization(low="a")', "low"),
    ("D.PhaseParameterization(3)", "prediction"),
    ('P.VP("a")', "beta_min"),
    ("P.VP(-1)", "beta_min"),
    ("P.VP(nan, nan)", "beta_min"),
    ("P.VP(None)", "beta_min"),
    ("P.VP(True)", "beta_min"),
    ("P.VP(torch.ones(2))", "beta_min"),
    ('P.SubVP("a")', "beta_min"),
    ("P.SubVP(nan)", "beta_min"),
    ('P.VE("a")', "sigma_min"),
    ("P.VE(0)", "sigma_min"),
    ("P.VE(1, inf)", "sigma_max"),
    ('P.EDM("a", "b")', "sigma_min"),
    ("P.EDM(5, 1)", "sigma_min"),
    ("P.EDM(sigma_max=None)", "sigma_max"),
    ('P.Cosine("a")', "offset"),
    ("P.Cosine(None)", "offset"),
    ("P.Cosine(nan)", "offset"),
    ("P.Cosine(2)", "offset"),
    ('P.DDPM("linear")', "betas"),
    ("P.DDPM(1000)", "betas"),
    ("P.DDPM(None)", "betas"),
    ('P.DDPM([0.1,"a"])', "betas"),
    ("P.DDPM([])", "betas"),
    ("P.DDPM([1.5])", "betas"),
    ("P.DDPM().knot(0.12345)", "t"),
    ('P.linear_betas("a")', "n"),
    ("P.linear_betas(0)", "n"),
    ("P.linear_betas(-3)", "n"),
    ("P.linear_betas(2.5)", "n"),
    ('P.linear_betas(10, "a")', "start"),
    ("P.linear_betas(10, nan)", "start"),
    ('P.cosine_betas("a")', "n"),
    ("P.cosine_betas(0)", "n"),
    ('P.cosine_betas(10, "a")', "offset"),
    ('P.cosine_betas(10, 0.008, "a")', "ceiling"),
    ('P.scaled_linear_betas("a")', "n"),
    ("P.scaled_linear_betas(10, -1)", "start"),
    ('P.Absorbing("a")', "classes"),
    ("P.Absorbing(0)", "classes"),
    ("P.Absorbing(2.5)", "classes"),
    ("P.Absorbing(True)", "classes"),
    ("P.Absorbing(None)", "classes"),
    ('P.Absorbing(3, "lin")', "schedule"),
    ("P.Absorbing(3, 5)", "schedule"),
    ('P.Uniform("a")', "classes"),
    ("P.Uniform(1)", "classes"),
    ('P.Neighbours("a")', "classes"),
    ("P.Neighbours(5, nearest=9)", "nearest"),
    ('P.DiscretisedGaussian("a")', "classes"),
    ('P.DiscretisedGaussian(5, steps="a")', "steps"),
    ('P.GammaNoise("a")', "base"),
    ("P.GammaNoise(-1)", "base"),
    ("P.GammaNoise(nan)", "base"),
    ('P.PhaseSpace("a")', "beta"),
    ("P.PhaseSpace(-1)", "beta"),
    ("P.PhaseSpace(nan)", "beta"),
    ("P.create_process(None)", "process"),
    ("P.create_process(3)", "process"),
    ('P.create_process("vpp")', "process"),
    ('P.create_process({"name":"vp","beta":1})', "process"),
    ('P.create_process({"name":"vp","beta_min":"a"})', "beta_min"),
    ("P.create_process(P.VP)", "process"),
    ("P.create_process({})", "process"),
    ("vp.marginal(pts, 2.0)", "t"),
    ('vp.marginal(pts, "a")', "t"),
    ('vp.marginal("x", 0.5)', "x"),
    ("vp.marginal(pts, None)", "t"),
    ("vp.marginal(pts.numpy(), 0.5)", "x"),
    ("vp.marginal(pts, nan)", "t"),
    ("vp.bridge(pts, pts, 0.5, 0.2, eta=2)", "eta"),
    ('vp.prior("a")', "shape"),
    ("vp.prior((2, 0))", "shape"),
    ("vp.prior(None)", "shape"),
    ("vp.marginal(pts, torch.tensor(1.5))", "t"),
    ("vp.marginal(pts, torch.tensor([0.5] * (len(pts) - 1) + [nan]))", "t"),
    ("vp.transition(pts, torch.tensor(-0.1), 0.5)", "s"),
    ('vp.transition(pts, "a", 0.5)', "s"),
    ("vp.bridge(pts, pts, 0.5, torch.tensor(2.0))", "s"),
    ('vp.bridge(pts, pts, 0.5, 0.2, eta="a")', "eta"),
    ('phase.prior("a")', "shape"),
    ("phase.prior((2, 0))", "shape"),
    ("phase.prior(None)", "shape"),
    ("phase.marginal(pts[:3], torch.tensor(1.5))", "t"),
    ("phase.marginal(pts[:3], torch.tensor([0.5] * (len(pts[:3]) - 1) + [nan]))", "t"),
    ("phase.transition(torch.randn(3, 2, 2), torch.tensor(-0.1), 0.5)", "s"),
    ('phase.transition(torch.randn(3, 2, 2), "a", 0.5)', "s"),
    ("phase.bridge(torch.randn(3, 2, 2), pts[:3], 0.5, torch.tensor(2.0))", "s"),
    ('phase.bridge(torch.randn(3, 2, 2), pts[:3], 0.5, 0.2, eta="a")', "eta"),
    ('gamma.prior("a")', "shape"),
    ("gamma.prior((2, 0))", "shape"),
    ("gamma.prior(None)", "shape"),
    ("gamma.marginal(pts, torch.tensor(1.5))", "t"),
    ("gamma.marginal(pts, torch.tensor([0.5] * (len(pts) - 1) + [nan]))", "t"),
    ("gamma.transition(pts, torch.tensor(-0.1), 0.5)", "s"),
    ('gamma.transition(pts, "a", 0.5)', "s"),
    ("gamma.bridge(pts, pts, 0.5, torch.tensor(2.0))", "s"),
    ('gamma.bridge(pts, pts, 0.5, 0.2, eta="a")', "eta"),
    ('tokens.prior("a")', "shape"),
    ("tokens.prior((2, 0))", "shape"),
    ("tokens.prior(None)", "shape"),
    ("tokens.marginal(ids, torch.tensor(1.5))", "t"),
    ("tokens.marginal(ids, torch.tensor([0.5] * (len(ids) - 1) + [nan]))", "t"),
    ("tokens.transition(ids, torch.tensor(-0.1), 0.5)", "s"),
    ('tokens.transition(ids, "a", 0.5)', "s"),
    ("tokens.bridge(ids, ids, 0.5, torch.tensor(2.0))", "s"),
    ('tokens.bridge(ids, ids, 0.5, 0.2, eta="a")', "eta"),
    ("vp.prior(2)", "shape"),
    ("vp.prior((2.0,))", "shape"),
    ("vp.bridge(pts, pts, 0.5, 0.2, eta=nan)", "eta"),
    ("vp.reverse(pts, den(pts, 0.5), 0.5, 0.2, eta=None)", "eta"),
    ('tokens.marginal("x", 0.5)', "x0"),
    ("tokens.bridge(None, ids, 0.5, 0.2)", "x_t"),
    ('vp.log_snr("a")', "t"),
    ("vp.log_snr(5.0)", "t"),
    ('W.ring("a")', "components"),
    ("W.ring(0)", "components"),
    ("W.ring(2.5)", "components"),
    ("W.ring(True)", "components"),
    ("W.ring(-3)", "components"),
    ("W.ring(None)", "components"),
    ('W.ring(8, "a")', "radius"),
    ("W.ring(8, nan)", "radius"),
    ('W.random_mixture("a")', "dim"),
    ("W.random_mixture(0)", "dim"),
    ("W.random_mixture(2, components=0)", "components"),
    ('W.random_mixture(2, components="a")', "components"),
    ("W.random_mixture(2, rms=-1)", "dim"),
    ("W.random_mixture(2, rms=nan)", "rms"),
    ('W.random_mixture(2, seed="a")', "seed"),
    ("W.random_mixture(2, seed=-1)", "seed"),
    ('W.GaussianMixture("a", "b", "c")', "weights"),
    ("W.GaussianMixture(None, None, None)", "weights"),
    ("W.GaussianMixture([0.5,0.5], [[0.,0.],[1.,1.]], [torch.eye(2)]*2)", "weights"),
    ("W.GaussianMixture(torch.tensor([-1.,2.]), torch.zeros(2,2), torch.ones(2))", "weights"),
    ("W.GaussianMixture(torch.tensor([0.5,0.5]), torch.zeros(3,2), torch.ones(2))", "weights"),
    ("W.GaussianMixture(torch.tensor([0.5,0.5]), torch.zeros(2,2), -torch.ones(2))", "covariances"),
    ("W.GaussianMixture(torch.tensor([0.5,0.5]), torch.zeros(2,2), torch.ones(5))", "covariances"),
    ("W.GaussianMixture(torch.tensor([nan,0.5]), torch.zeros(2,2), torch.ones(2))", "weights"),
    ('W.Empirical("a")', "points"),
    ("W.Empirical(None)", "points"),
    ("W.Empirical(torch.zeros(0,2))", "points"),
    ("W.Empirical(torch.zeros(3))", "points"),
    ("W.Empirical(torch.full((3,2),nan))", "points"),
    ("W.Empirical(pts, weights=torch.ones(3))", "weights"),
    ('W.Empirical(pts, labels="a")', "labels"),
    ("W.Empirical(pts, labels=torch.ones(64))", "labels"),
    ('W.TokenTable("a")', "probs"),
    ("W.TokenTable(torch.tensor([nan,1.]))", "weights"),
    ('world.sample("a")', "noise"),
    ("world.sample(-1)", "noise"),
    ("world.sample(2.5)", "noise"),
    ("world.sample(None)", "noise"),
    ("world.sample(True)", "noise"),
    ('world.sample(3, "a")', "seed"),
    ('world.sample(3, process="vp", t=0.5)', "process"),
    ("world.sample(3, process=vp, t=2.0)", "t"),
    ("world.sample(3, process=P.VP, t=0.5)", "process"),
    ('world.log_prob("a")', "x"),
    ("world.log_prob(None)", "x"),
    ("world.log_prob(pts.numpy())", "x"),
    ("world.log_prob(torch.zeros(3,5))", "x"),
    ("world.log_prob(torch.zeros(2))", "x"),
    ('world.denoiser("vp")', "process"),
    ("world.denoiser(P.VP)", "process"),
    ("world.denoiser(None)", "process"),
    ('world.classifier("vp")', "process"),
    ("world.classifier(P.VP)", "process"),
    ('world.score(pts, "vp", 0.5)', "process"),
    ('world.score(pts, vp, "a")', "t"),
    ('langevin.Noise("a", 3)', "seed"),
    ("langevin.Noise(-1, 3)", "seed"),
    ("langevin.Noise(1.5, 3)", "seed"),
    ("langevin.Noise(True, 3)", "seed"),
    ("langevin.Noise(None, 3)", "seed"),
    ('langevin.Noise(0, "a")', "sample"),
    ("langevin.Noise(0, None)", "sample"),
    ("langevin.Noise(0, -3)", "sample"),
    ("langevin.Noise(0, 2.5)", "sample"),
    ("langevin.Noise(0, True)", "sample"),
    ("langevin.Noise(0, [1,2])", "sample"),
    ('langevin.Noise(0, 3, "a")', "draw"),
    ('langevin.Noise(0, 3).step("a")', "draw"),
    ("langevin.Noise(0, 3).step(-1)", "draw"),
    ('langevin.methods("sampler")', "category"),
    ("langevin.methods(3)", "category"),
    ("langevin.load(None)", "path"),
    ("langevin.load(3)", "path"),
    ('langevin.load("")', "path"),
    ("langevin.load(model)", "path"),
    ("L.exact(None, pts)", "denoiser"),
    ('L.exact("m", pts)', "denoiser"),
    ("L.exact(model, None)", "x"),
    ('L.exact(model, "a")', "x"),
    ("L.exact(model, pts.numpy())", "x"),
    ("L.exact(model, torch.zeros(3,5))", "x"),
    ("L.exact(model, torch.zeros(2))", "x"),
    ('L.exact(model, pts, probes="a")', "probes"),
    ("L.exact(model, torch.full((3,2),nan))", "x"),
    ("L.bound(None, pts)", "denoiser"),
    ('L.bound("m", pts)', "denoiser"),
    ("L.bound(model, None)", "x"),
    ('L.bound(model, "a")', "x"),
    ("L.bound(model, pts.numpy())", "x"),
    ("L.bound(model, torch.zeros(3,5))", "x"),
    ('L.bound(model, pts, steps="a")', "steps"),
    ("L.bound(model, pts, steps=0)", "steps"),
    ("L.bound(model, pts, steps=2.5)", "steps"),
    ('L.bound(model, pts, grid="a")', "grid"),
    ("L.bound(model, pts, grid=[0.5])", "grid"),
    ("L.bound(model, torch.full((3,2),nan))", "x"),
    ('M.sliced_wasserstein("a", "b")', "samples"),
    ("M.sliced_wasserstein(None, pts)", "samples"),
    ("M.sliced_wasserstein(pts, pts[:, :1])", "samples"),
    ("M.sliced_wasserstein(pts.numpy(), pts)", "samples"),
    ('M.frechet_distance("a", pts)', "features"),
    ("M.frechet_distance(pts, None)", "features"),
    ("M.frechet_distance(pts, torch.zeros(5,3))", "samples"),
    ("M.frechet_distance(torch.full((5,2),nan), pts)", "samples"),
    ('M.precision_recall(pts, "a")', "real"),
    ("M.precision_recall(pts, pts, k=0)", "k"),
    ("A.load(None)", "source"),
    ("A.load(3)", "source"),
    ('A.load("")', "source"),
    ('A.load("mons")', "data"),
    ('A.load("/no/such/folder")', "data"),
    ('A.load("digits", size="a")', "size"),
    ('A.load("digits", size=0)', "size"),
    ('A.load("digits", size=-3)', "size"),
    ('A.load("digits", size=2.5)', "size"),
    ('A.load("digits", channels=7)', "channels"),
    ('A.load("digits", channels="a")', "channels"),
    ('A.load("digits", limit="a")', "limit"),
    ('A.load("digits", limit=0)', "limit"),
    ('A.load("digits", limit=-1)', "limit"),
    ('A.load("digits", crop="x")', "crop"),
    ("A.load(pts)", "source"),
    ("A.load(np.zeros((3,2)))", "source"),
    ('A.load(["digits"])', "source"),
    ('A.load("moons", limit=2.5)', "limit"),
    ("T.Config.from_dict(None)", "config"),
    ('T.Config.from_dict({"stepz":3})', "config"),
    ("T.train(None, None, None)", "config"),
    ('T.train(T.Config(), "digits", "/tmp/x1")', "dataset"),
    ('T.train(T.Config, A.load("moons"), "/tmp/x1")', "config"),
    ('T.train({}, A.load("moons"), "/tmp/x1")', "config"),
    ('T.train(T.Config(), A.load("moons"), None)', "out"),
    ('T.train(T.Config(), A.load("moons"), 3)', "out"),
    ('T.train(T.Config(), pts, "/tmp/x1")', "dataset"),
    ('MO.save(None, "/tmp/x1")', "denoiser"),
    ('MO.save(den, "/tmp/x1")', "denoiser"),
    ("MO.save(model, None)", "path"),
    ('T.image_grid("a")', "x"),
    ("T.image_grid(None)", "x"),
    ("T.image_grid(torch.zeros(3))", "x"),
    ("D.NetworkDenoiser(Out(), vp, D.AffineParameterization(), (2,))(pts, 0.5)", "network"),
    ('langevin.denoiser(net, process=P.VP, prediction="eps", shape=(2,))', "process"),
    ('langevin.denoiser(net, process="vp", prediction="epsilon", shape=(2,))', "prediction"),
    ('langevin.denoiser(net, process="vp", prediction="eps", shape="2")', "shape"),
    ('langevin.denoiser(net, process="vp", prediction="eps", shape=(2,), time="n")', "time"),
    ("langevin.check_denoiser(net, pts)", "denoiser"),
    ("langevin.check_denoiser(den, pts.numpy().tolist()[:3])", "data"),
    ('L.continuous_bound("m", pts)', "denoiser"),
    ('L.start_time("m", pts)', "denoiser"),
    ('L.pairs("m", pts)', "denoiser"),
]
"""Calls as a user may type them, and the word by which the sentence names what is wrong."""


def check_refusal(error: BaseException, argument: str) -> None:
    """One sentence of this library, raised by its own code, that names the argument and leaks nothing."""
    assert isinstance(error, (ValueError, TypeError)), repr(error)
    innermost = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    assert innermost.is_relative_to(SOURCE), innermost
    message = str(error)
    assert re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", message), message
    assert "\n" not in message
    assert 10 < len(message) < 1500
    assert not INTERNALS.search(message), message


def test_there_are_enough():
    calls = [call for call, _ in CALLS]
    assert len(set(calls)) == len(calls) >= 90


@pytest.mark.parametrize(("call", "argument"), CALLS, ids=[call for call, _ in CALLS])
def test_a_bad_call_is_one_sentence(call, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError)) as caught:
        eval(call, globals())
    check_refusal(caught.value, argument)
    assert not list(tmp_path.iterdir())


WRAP = "langevin.denoiser(network, process=…, prediction=…, shape=…)"
HINTS = [
    ("langevin.sample(den, S.DDIM)", "sampler must be .* the class DDIM; write DDIM\\(\\) for an instance"),
    ("langevin.sample('runs/demo/model')", "load the model first: langevin.load\\('runs/demo/model'\\)"),
    ("langevin.sample(world)", "take its denoiser on a process: world.denoiser"),
    ("langevin.sample(den, start=np.zeros((4, 2)))", "start must be a floating tensor .* got ndarray of shape"),
    ("langevin.sample(den, start=torch.zeros(4, 3))", "start must be .* \\(B, 2\\), got shape \\(4, 3\\)"),
    ("model.given(label='3')", "label must hold integers, .* got '3'"),
    ("langevin.sample(lambda x, t: x)", re.escape(WRAP)),
    ("langevin.sample(net)", "got Linear; wrap a network with " + re.escape(WRAP)),
    ("ND(lambda x, t: x, vp, D.AffineParameterization(), (2,))", re.escape(WRAP)),
    (
        "ND(net, vp, D.AffineParameterization(), (2,))(pts, 0.5)",
        "network must take .* Linear does not; " + re.escape(WRAP),
    ),
    (
        "ND(Out(), vp, D.AffineParameterization(), (2,))(pts, 0.5)",
        "must return a tensor, got SimpleNamespace; " + re.escape(WRAP),
    ),
    ("world.denoiser(P.VP)", "the class VP; write VP\\(\\) for an instance"),
]


@pytest.mark.parametrize(("call", "words"), HINTS, ids=[call for call, _ in HINTS])
def test_the_sentence_says_what_to_do(call, words):
    with pytest.raises(langevin.UserError, match=words):
        eval(call, globals())


def test_a_network_of_diffusers_is_told_how_to_be_wrapped():
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with pytest.raises(langevin.UserError, match="got UNet2DModel; wrap a network with " + re.escape(WRAP)):
        langevin.sample(unet)
    bare = ND(unet, P.DDPM(), D.AffineParameterization("eps", time="index"), (1, 8, 8))
    with pytest.raises(langevin.UserError, match="got UNet2DOutput; " + re.escape(WRAP)):
        langevin.sample(bare, steps=1)


def test_training_leaves_nothing_behind(tmp_path):
    moons = A.load("moons")
    for config, dataset, argument in ((T.Config, moons, "config"), ({}, moons, "config"), (T.Config(), pts, "dataset")):
        with pytest.raises(langevin.UserError) as caught:
            T.train(config, dataset, tmp_path / "out", quiet=True)
        check_refusal(caught.value, argument)
    assert not list(tmp_path.iterdir())


def test_an_error_inside_a_network_is_its_own():
    """Only mistakes of the caller are said in other words: what a network raises for reasons of its own stays."""

    class Broken(Net):
        def forward(self, x, t, condition=None):
            raise RuntimeError("out of something")

    with pytest.raises(RuntimeError, match="out of something"):
        ND(Broken(), vp, D.AffineParameterization(), (2,))(pts, 0.5)
