"""The demo from beginning to end, on a network that learns nothing."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest
import torch
from test_page import Page

import langevin
from langevin import UserError, metrics, training
from langevin.generate import generate
from langevin.report import HEADLINE, TRIALS, Job, Results, demo, demo_config
from langevin.report.forecast import forecast
from langevin.report.page import page
from langevin.report.table import MEANINGS, MEASURES, anchor
from langevin.training import BudgetConfig, Config, NetworkConfig, OutputConfig

CONFIG = Config(
    batch=16,
    network=NetworkConfig("unet", {"width": "8"}),
    budget=BudgetConfig(steps=6),
    output=OutputConfig(log_every=2, validate_every=3, validate_on=32, sample_every=0, checkpoint_every=3),
)
FEW = tuple(trial for trial in TRIALS if trial.id in ("heun-8", HEADLINE))
JOB = Job(CONFIG, samples=100, trials=FEW)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    out = tmp_path_factory.mktemp("report") / "demo"
    return out, demo(JOB, out, say=lambda line: None)


@pytest.mark.slow
def test_trials_take_the_evaluations_they_name(made: tuple[Path, Results]) -> None:
    model = made[1].model
    for trial in TRIALS:
        assert generate(model, trial.recipe, 2).evaluations == trial.evaluations, trial.id


def test_it_says_first_what_it_will_take(tmp_path: Path) -> None:
    said: list[str] = []
    demo(JOB, tmp_path / "demo", say=said.append)
    sentence = r"this will take about .+ \(.+ of training, .+ of sampling, .+ of measuring\): done at \d\d:\d\d"
    assert said[0].startswith("training on 1438 scans")
    assert re.fullmatch(sentence, said[1])


def test_the_forecast_counts_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a call of 100 samples takes a second, one of 60 takes 0.6: every sampler's samples times evaluations."""
    monkeypatch.setattr("langevin.report.forecast._seconds", lambda work: 1.0)
    dataset = langevin.data.load("digits")
    told = forecast(CONFIG, TRIALS, 2000, dataset, ("pixels",), batch=100)
    assert told.sampling == pytest.approx(sum(t.count(2000) * t.evaluations for t in TRIALS) / 100)


def test_a_second_interrupt_leaves_the_training_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def train(*args: object, **named: object) -> None:
        seen.append(named["leave"])
        raise UserError("enough")

    monkeypatch.setattr(training, "train", train)
    leave = lambda text: None
    with pytest.raises(UserError, match="enough"):
        demo(JOB, tmp_path / "demo", say=lambda line: None, leave=leave)
    assert seen == [leave]


def test_a_forecast_counts_what_is_left() -> None:
    dataset, state = langevin.data.load("digits"), torch.get_rng_state()
    told = lambda config, spent: forecast(config, FEW, 100, dataset, ("pixels",), batch=100, spent=spent)
    minutes = replace(CONFIG, budget=BudgetConfig(minutes=2.0))
    assert told(minutes, 0.75).training == 30
    assert told(CONFIG, 1.0).training == 0
    whole = told(CONFIG, 0.0)
    assert min(whole.training, whole.sampling, whole.measuring) > 0
    # Steps are counted: a budget a hundred times as long takes longer, however noisy the clock of a single step.
    assert told(replace(CONFIG, budget=BudgetConfig(steps=600)), 0.0).training > whole.training
    # What is thrown away takes nothing of the run's own random numbers.
    assert torch.equal(torch.get_rng_state(), state)


def test_the_figures_are_those_of_the_command_that_is_named(made: tuple[Path, Results]) -> None:
    out, _ = made
    found = json.loads((out / "report.json").read_text())
    assert [row["id"] for row in found["rows"]] == [trial.id for trial in FEW]
    assert found["headline"] == HEADLINE
    model, dataset = langevin.load(out / "model"), langevin.data.load("digits")
    for row, trial in zip(found["rows"], FEW):
        drawn = generate(model, trial.recipe, round(trial.share * JOB.samples))
        assert row["run"]["evaluations"] == drawn.evaluations
        assert row["measures"] == json.loads(json.dumps(metrics.evaluate(drawn.x, drawn.label, dataset, seed=0)))
        assert all(measure["protocol"]["split"] == "test" for measure in row["measures"].values())
    assert found["model"]["training"]["steps"] == 6
    assert found["data"]["train"] == 1438
    assert found["data"]["test"] == 359


def test_the_page_is_whole_and_loads_nothing(made: tuple[Path, Results]) -> None:
    text = (made[0] / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.wrong == []
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.loaded)
    assert "@import" not in text
    assert "url(http" not in text
    assert len(page.ids) == len(set(page.ids))
    # Every picture is one: samples, scans, three digits forming, neighbours.
    pictures = [address for address in page.loaded if address.startswith("data:")]
    assert len(pictures) == 6
    assert all(base64.b64decode(p.partition(",")[2]).startswith(b"\x89PNG") for p in pictures)
    assert text.count("<svg") == 3


def test_the_page_shows_the_figures(made: tuple[Path, Results]) -> None:
    out, found = made
    text = (out / "report.html").read_text()
    row = found.headline
    agreement, taught = row.value("label-agreement"), row.value("train-synthetic-test-real")
    assert agreement is not None
    assert taught is not None
    assert f"<b>{100 * agreement:.1f} %</b>" in text
    assert f"<b>{100 * taught:.1f} %</b>" in text
    assert f"<b>{row.value('memorisation'):.2f}</b>" in text
    table = text[text.index("<table>") : text.index("</table>")]
    body = re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]
    assert len(body) == len(FEW)
    assert [re.findall(r"<td>(.*?)</td>", line)[:2] for line in body] == [["Heun", "15"], ["default", "12"]]
    assert "class=headline" in body[1]
    assert f"langevin evaluate {out}/model --steps 12" in text
    for version in found.environment["versions"].values():
        assert version in text


def test_every_measure_of_the_page_leads_to_a_sentence(made: tuple[Path, Results]) -> None:
    """And every figure that would mislead to its own: 50 samples give no covariance of 61 pixels."""
    out, found = made
    text = (out / "report.html").read_text()
    whole = Page(text)
    links = [address[1:] for address in whole.loaded if address.startswith("#")]
    assert set(links) <= set(whole.ids)
    assert {anchor(measure) for measure, _, _ in MEASURES} <= set(links)
    for measure, _, sentence in MEANINGS:
        meaning = text[text.index(f'<dt id="{anchor(measure)}">') :].partition("</dd>")[0]
        assert escape(sentence) in meaning
    heun = next(row for row in found.rows if row.trial.id == "heun-8")
    note = heun.note("frechet/pixels")
    assert note is not None
    assert heun.value("frechet/pixels") is None
    number = re.search(r'<li id="note-(\d+)">Fréchet, pixels: ' + re.escape(note[0].lower() + note[1:]), text)
    assert number is not None
    assert f'–<sup><a href="#note-{number[1]}">' in text
    low, high = found.headline.interval("label-agreement") or (0, 0)
    assert f"95 % interval {100 * low:.1f} % to {100 * high:.1f} %" in text


def test_a_quick_run_says_so_first(made: tuple[Path, Results]) -> None:
    _, found = made
    plain, quick = page(found), page(replace(found, quick=True))
    sentence = "Do not read these figures as the quality of the method"
    assert sentence not in plain
    assert quick.index(sentence) < quick.index('<div class="cards">')
    assert (found.to_dict()["quick"], replace(found, quick=True).to_dict()["quick"]) == (False, True)


def test_the_page_fits_narrow_and_wide_windows(made: tuple[Path, Results]) -> None:
    """What has a least width lies in an element that scrolls and says so; a wide window sets sections side by side."""
    text = (made[0] / "report.html").read_text()
    assert "overflow-x: auto" in text.partition(".pan {")[2].partition("}")[0]
    body = text.partition("<body>")[2]
    for drawn in re.finditer(r'<svg|<img class="ink"|<table>', body):
        # Every picture, chart and table: the nearest figure or box before it has an element that scrolls.
        before = body[: drawn.start()]
        assert before.rfind('role="region"') > before.rfind("<h2>"), drawn[0]
        assert before.rfind('role="region"') > before.rfind("</figure>"), drawn[0]
    assert 'class="cue"' in text
    assert text.count('<div class="pair">') == 3
    assert "@media (min-width: 1400px)" in text
    assert text.count('tabindex="0"') == 7


def test_the_strip_ends_in_the_samples_of_the_headline(made: tuple[Path, Results]) -> None:
    _, found = made
    strip = found.strip
    assert len(strip.times) == 14  # 12 evaluations: the first step and clean data ask for none
    assert strip.times[-1] == 0
    last = strip.beliefs[-1].clamp(-1, 1)
    # The same numbers by another batch: float32 convolutions add in another order.
    assert torch.allclose(last, found.headline.drawn.x[[2, 5, 8]], atol=1e-4)
    assert strip.states.shape == strip.beliefs.shape == (14, 3, 1, 8, 8)
    # A belief stands under the state it is about; the first is the Gaussian's, of noise alone.
    rms, process = found.model.parameterization.sigma_data, found.model.process
    model = found.model.given(label=torch.tensor([2, 5, 8]))
    for i in (1, 9):
        t = strip.times[i]
        scale = rms / torch.sqrt(process.alpha(t) ** 2 * rms**2 + process.sigma(t) ** 2)
        with torch.no_grad():
            believed = model(strip.states[i].double() / scale, t).mean
        assert torch.allclose(strip.beliefs[i], believed.float(), atol=1e-4)
    # Pure noise brought to the contrast of the data: 192 pixels, so one standard deviation is 1/√384 = 5 %.
    assert float(strip.states[0].square().mean().sqrt()) == pytest.approx(rms, rel=0.25)


def test_neighbours_are_the_nearest(made: tuple[Path, Results]) -> None:
    _, found = made
    train, test = found.dataset.train.all()["x"], found.dataset.test.all()["x"]
    x = found.headline.drawn.x[7]
    distance = (train - x).double().flatten(1).norm(dim=1)
    assert int(found.neighbours.index[7]) == int(distance.argmin())
    assert float(found.neighbours.samples[7]) == pytest.approx(float(distance.min()))
    assert len(found.neighbours.heldout) == len(test)


def test_a_trained_model_is_used_again(made: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = made
    monkeypatch.setattr(training, "train", lambda *a, **k: pytest.fail("trained again"))
    before = (out / "model" / "model.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    assert demo(replace(JOB, quick=True), out, say=lines.append).reused
    assert "Quick run." in (out / "report.html").read_text()
    assert "--fresh trains anew" in lines[0]
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert "in an earlier run" in (out / "report.html").read_text()


@pytest.mark.slow
def test_other_settings_are_not_passed_off_as_these(made: tuple[Path, Results]) -> None:
    out, _ = made
    for part, change in {"budget": BudgetConfig(steps=7), "seed": 1}.items():
        job = replace(JOB, config=replace(CONFIG, **{part: change}))
        with pytest.raises(UserError, match=rf"other settings \({part}\); train anew with --fresh"):
            demo(job, out, say=lambda line: None)
    # What is written while training does not make another model.
    assert demo(replace(JOB, config=replace(CONFIG, output=OutputConfig())), out, say=lambda line: None).reused


def test_an_interrupted_demo_goes_on_and_fresh_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from langevin.training.logging import Bar

    def stop(bar: Bar, step: int, *more: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "step", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 4; the same command goes on"):
            demo(JOB, tmp_path, say=lambda line: None)
    assert [path.name for path in training.checkpoints(tmp_path / "model")] == ["step-0000003"]
    lines: list[str] = []
    found = demo(JOB, tmp_path, say=lines.append)
    assert lines[0].startswith("going on with training")
    assert found.model.config["steps"] == 6
    assert not found.reused
    (tmp_path / "model" / "mine.txt").write_text("left over")
    again = demo(replace(JOB, fresh=True), tmp_path, say=lines.append)
    assert not again.reused
    assert not (tmp_path / "model" / "mine.txt").exists()
    # Resumed or in one go, bit for bit: the trainer's promise, kept by the way the demo asks for it.
    for one, two in zip(found.model.network.parameters(), again.model.network.parameters()):
        assert torch.equal(one, two)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="samples must be at least 100, got 99"):
        demo(replace(JOB, samples=99), tmp_path)
    with pytest.raises(UserError, match="trials must hold the headline"):
        demo(replace(JOB, trials=TRIALS[:1]), tmp_path)


def test_the_quick_demo_by_its_command(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from langevin import report
    from langevin.cli import main

    asked: list[Job] = []
    monkeypatch.setattr(report, "demo", lambda job, out, say, leave: asked.append(job) or calls.append(leave))
    calls: list[object] = []
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--steps", "9", "--seed", "3", "--samples", "400", "--fresh", "--out", str(tmp_path)]) == 0
    quick, plain, own = asked
    assert all(callable(leave) for leave in calls)
    assert (quick.samples, quick.config.budget.steps) == (100, 40)
    assert (quick.quick, plain.quick, own.quick) == (True, False, False)
    assert (plain.samples, plain.config, plain.trials) == (2000, demo_config(), TRIALS)
    assert (own.samples, own.seed, own.config.seed, own.fresh) == (400, 3, 3, True)
    assert own.config.budget == BudgetConfig(steps=9)
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    # Labels are hidden less often than by default, but often enough for the guidance that the report goes on to.
    assert 0 < plain.config.objective.dropout["label"] <= 0.1
