"""The playground in Chromium, driven as a person would: by mouse, by keyboard, on wide and on narrow screens.

Left out where there is no Chromium (Debian: ``apt-get install chromium``).

It is one file, of more than 400 lines, since all of it is driven in one server and one browser.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from langevin.playground import worlds
from langevin.processes import create_process

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

LONG = 60_000
"""Milliseconds that are waited for something on a machine that does other work too."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A playground with a model of digits, served as ``langevin play`` serves it."""
    folder = tmp_path_factory.mktemp("browser")
    train = "train digits --steps 2 --batch 8 --network.name unet --network.options width 8 multipliers [1] blocks [1]"
    words = [*train.split(), "conditions", '{"label": 10}', "attention", "[]", "--out", "digits"]
    subprocess.run([sys.executable, "-m", "langevin", *words], cwd=folder, check=True, capture_output=True)
    play = [sys.executable, "-m", "langevin", "play", "digits", "--no-browser", "--port", "0"]
    with subprocess.Popen(play, cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ}) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        yield re.search(r"http://\S+/", said)[0]  # type: ignore[index]
        server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def page(browser: Any, address: str, tab: str = "worlds", **settings: Any) -> Iterator[Any]:
    """A page that asks nothing of another machine and says nothing on its console, which is checked at its end."""
    settings = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **settings}
    context = browser.new_context(**settings)
    context.set_default_timeout(LONG)
    opened, heard, asked = context.new_page(), [], []
    opened.on("console", lambda message: heard.append(message.text))
    opened.on("pageerror", lambda error: heard.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(f"{address}#{tab}")
    opened.wait_for_selector("body[data-ready]")
    yield opened
    context.close()
    assert heard == []
    assert all(url.startswith((address, "data:", f"blob:{address}")) for url in asked)


def settled(page: Any, **wanted: Any) -> None:
    """Wait until the measures are those of a request that has these settings."""
    test = """wanted => {
        const done = document.getElementById("worlds").dataset.done;
        return done && Object.entries(wanted).every(([name, value]) => JSON.parse(done)[name] === value);
    }"""
    page.wait_for_function(test, arg=wanted)


def slide(page: Any, name: str, value: float) -> None:
    page.locator(f"#{name}").evaluate(
        "(field, value) => { field.value = value; field.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def shares(page: Any, view: int = 0, cells: int = 12, tab: str = "worlds") -> torch.Tensor:
    """The share of a canvas's particles in each of its cells, by the pixels that they cover, rows from the bottom."""
    page.uncheck(f"#{tab}-density")
    found = (
        page.locator(f"#{tab}-views canvas")
        .nth(view)
        .evaluate(
            """(canvas, cells) => {
            const { width, height } = canvas;
            const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, width, height);
            const found = new Array(cells * cells).fill(0);
            for (let y = 0; y < height; y++)
                for (let x = 0; x < width; x++) {
                    const row = Math.floor(((height - 1 - y) * cells) / height);
                    const column = Math.floor((x * cells) / width);
                    found[row * cells + column] += data[(y * width + x) * 4 + 3];
                }
            return found;
        }""",
            cells,
        )
    )
    page.check(f"#{tab}-density")
    counts = torch.tensor(found, dtype=torch.float64)
    return counts / counts.sum()


def probabilities(world: str, place: float, cells: int = 12, process: str = "vp") -> torch.Tensor:
    """The exact probability of each cell at a place of the slider that is one of the frames."""
    request = worlds.Request.read({"world": world, "n": 10, "process": process})
    found = worlds.exact(request)
    frame = round(place * worlds.FRAMES)
    t, half = found.times[frame], found.half[frame]
    along = half * ((torch.arange(cells * 8, dtype=torch.float64) + 0.5) / (cells * 8) * 2 - 1)
    y, x = torch.meshgrid(along, along, indexing="ij")
    points = torch.stack((x, y), -1).flatten(0, 1)
    noising = create_process(process)
    log = request.world.log_prob(points, noising, t) if float(t) else request.world.log_prob(points)
    mass = log.exp().reshape(cells, 8, cells, 8).sum((1, 3)).flatten()
    return mass / mass.sum()


def away(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Total variation."""
    return float(0.5 * (found - exact).abs().sum())


def floor(exact: torch.Tensor, n: int) -> float:
    """Its mean for n exact samples, at most."""
    return float(0.5 * (2 * exact * (1 - exact) / (math.pi * n)).sqrt().sum())


@pytest.mark.parametrize("world", ["two", "moons"])
def test_the_particles_on_the_canvas_have_the_exact_law(browser: Any, address: str, world: str) -> None:
    """At the data and at two noise levels, of the sampler and of noisy data; not of another world, nor another level.

    Particles that overlap cover fewer pixels than they are: with 1,000 of them the shares move by 0.05 at most.
    """
    with page(browser, address) as opened:
        opened.select_option("#worlds-world", world)
        opened.select_option("#worlds-sampler", "dpmpp-3m")
        slide(opened, "worlds-steps", 32)  # of the default grid, which is that of the frames
        settled(opened, world=world, sampler="dpmpp-3m", steps=32)
        for place in (1.0, 24 / worlds.FRAMES, 20 / worlds.FRAMES):
            slide(opened, "worlds-place", place)
            exact = probabilities(world, place)
            for view in (0, 1):
                assert away(shares(opened, view), exact) < 1.5 * floor(exact, 1000) + 0.05
        other = probabilities("ring", 1.0)
        slide(opened, "worlds-place", 1)
        assert away(shares(opened), other) > 2 * (1.5 * floor(other, 1000) + 0.05)
        slide(opened, "worlds-place", 0.3)
        assert away(shares(opened), probabilities(world, 1.0)) > 0.3


def test_first_picture_and_every_control(browser: Any, address: str) -> None:
    """The first result within 5 seconds of an idle machine (30 here, where tests run side by side)."""
    begun = time.monotonic()
    with page(browser, address) as opened:
        settled(opened)
        assert time.monotonic() - begun < 30
        text = lambda: opened.inner_text("#worlds-measures")
        assert re.search(r"Evaluations of the denoiser\s+10", text())
        slide(opened, "worlds-steps", 25)
        settled(opened, steps=25)
        assert re.search(r"Evaluations of the denoiser\s+25", text())
        families = opened.locator("#worlds-sampler optgroup").evaluate_all("all => all.map(one => one.label)")
        assert len(families) == len(set(families)) == 5
        opened.select_option("#worlds-process", "flow")
        opened.select_option("#worlds-sampler", "heun")
        settled(opened, process="flow", sampler="heun")
        assert re.search(r"Evaluations of the denoiser\s+49", text())
        opened.select_option("#worlds-label", "3")
        slide(opened, "worlds-scale", 2)
        settled(opened, label=3, scale=2)
        assert "guidance_scale=2" in opened.text_content("#worlds-python")
        opened.select_option("#worlds-sampler", "rk45")
        settled(opened, sampler="rk45")
        assert opened.is_disabled("#worlds-steps")
        slide(opened, "worlds-n", 300)
        opened.fill("#worlds-seed", "9")
        settled(opened, seed=9, n=300)
        opened.check("#worlds-score")
        opened.check("#worlds-paths")


def test_four_methods_side_by_side(browser: Any, address: str) -> None:
    with page(browser, address) as opened:
        opened.check("#worlds-four")
        heads = opened.locator("#worlds-measures th[scope=col]")
        heads.first.wait_for()
        opened.wait_for_function("() => !document.getElementById('worlds-measures').innerText.includes('…')")
        assert heads.all_inner_texts() == ["DDPM", "DDIM", "Score SDE", "Flow matching"]
        assert opened.locator("#worlds-views canvas").count() == 5
        assert opened.locator("#worlds-views figcaption").last.inner_text() == "Exact: data that noise is added to"
        row = opened.locator("#worlds-measures tr", has_text="Error of the path").inner_text()
        assert row.count("draws noise") == 2


def test_a_world_of_ones_own_by_mouse_and_keyboard(browser: Any, address: str) -> None:
    with page(browser, address) as opened:
        opened.select_option("#worlds-world", "drawn")
        opened.wait_for_selector("#worlds-measures", state="hidden")
        box = opened.locator("#worlds-pad").bounding_box()
        opened.mouse.move(box["x"] + 40, box["y"] + 40)
        opened.mouse.down()
        opened.mouse.move(box["x"] + 120, box["y"] + 40, steps=8)
        opened.mouse.up()
        drawn = int(opened.inner_text("#worlds-count").split()[0])
        assert 4 <= drawn <= 9
        opened.focus("#worlds-pad")
        for key in ("ArrowRight", "ArrowDown", "Enter"):
            opened.keyboard.press(key)
        assert opened.inner_text("#worlds-count").startswith(f"{drawn + 1} of")
        settled(opened, world="drawn")
        opened.click("#worlds-undo")
        assert opened.inner_text("#worlds-count").startswith(f"{drawn} of")
        opened.click("#worlds-clear")
        assert opened.inner_text("#worlds-count").startswith("0 of")


def test_particles_move_and_an_idle_page_does_nothing(browser: Any, address: str) -> None:
    """20 pictures a second of 2,000 particles on an idle machine; 5 here. Then none, until something is touched."""
    with page(browser, address, reduced_motion="no-preference") as opened:
        slide(opened, "worlds-n", 2000)
        settled(opened, n=2000)
        opened.wait_for_function("() => document.getElementById('worlds-play').textContent === '▶'")
        watch = """() => {
            const plain = requestAnimationFrame;
            window.frames_ = [];
            window.requestAnimationFrame = run => plain(now => { window.frames_.push(now); run(now); });
        }"""
        opened.evaluate(watch)
        opened.click("#worlds-play")
        opened.wait_for_function(
            "() => document.getElementById('worlds-place').value === '1' && window.frames_.length > 5"
        )
        opened.wait_for_function("() => document.getElementById('worlds-play').textContent === '▶'")
        opened.wait_for_timeout(200)
        count, seconds = opened.evaluate("[frames_.length, (frames_.at(-1) - frames_[0]) / 1000]")
        assert seconds == pytest.approx(3, abs=0.7)
        assert count / seconds > 5
        opened.wait_for_timeout(500)
        assert opened.evaluate("frames_.length") == count


def trained(page: Any) -> dict[str, Any]:
    """Start, and wait for the end: the request that was answered."""
    page.evaluate("() => delete document.getElementById('train').dataset.done")
    page.click("#train-start")
    page.wait_for_function("() => document.getElementById('train').dataset.done")
    return json.loads(page.locator("#train").evaluate("tab => tab.dataset.done"))


def test_a_network_learns_before_ones_eyes(browser: Any, address: str) -> None:
    """Its samples on the canvas have the exact distribution, as far as its own figures say they do.

    Total variation between the shares of n samples and their probabilities, as for the particles of the worlds; what
    the network has not learned in 1,000 steps, and the area of a dot, which lies in two cells at an edge, add up to
    0.1 at most here. The samples of a network of one level are as far away as the table says, and not further.
    """
    with page(browser, address, "train") as opened:
        opened.select_option("#train-world", "two")
        slide(opened, "train-steps", 1000)
        request = trained(opened)
        assert (request["world"], request["steps"], request["sigma"]) == ("two", 1000, None)
        found, want = shares(opened, 2, tab="train"), probabilities("two", 1.0, process="edm")
        floor = 0.5 * (2 * want * (1 - want) / (math.pi * 1000)).sqrt().sum()
        assert 0.5 * (found - want).abs().sum() < 1.5 * floor + 0.1
        for line in ("#train-loss polyline.trained", "#train-loss polyline.fresh", "#train-errors polyline.fresh"):
            assert len(opened.locator(line).get_attribute("points").split()) > 2
        assert "Learned score at σ" in opened.locator("#train-views figcaption").first.text_content()
        before = opened.locator("#train-views canvas").first.screenshot()
        opened.locator("#train-place").press("ArrowLeft")
        assert opened.locator("#train-views canvas").first.screenshot() != before
        opened.check("#train-points")
        assert float(cell(opened, "Distance of the samples")) < 0.2
        opened.check("input[name=train-levels][value=one]")
        slide(opened, "train-sigma", -1.5)
        assert trained(opened)["sigma"] == pytest.approx(10**-1.5, rel=0.01)
        assert "chain at σ = 0.0316 alone" in opened.locator("#train-views figcaption").nth(2).text_content()
        assert float(cell(opened, "Distance of the samples")) > 0.2


def cell(page: Any, name: str) -> str:
    row = page.locator("#train-measures tr", has=page.get_by_text(name))
    return str(row.locator("td").text_content())


def test_a_drawing_is_learned_and_training_is_stopped(browser: Any, address: str) -> None:
    """By keyboard alone."""
    with page(browser, address, "train") as opened:
        opened.focus("#train-world")
        opened.keyboard.type("Your own")
        assert opened.locator("#train-start").is_disabled()  # there is nothing to learn
        opened.focus("#train-pad")
        for key in ("Enter", "ArrowRight", "ArrowRight", "ArrowUp", "Enter"):
            opened.keyboard.press(key)
        assert opened.locator("#train-count").text_content() == "2 of 64 dots"
        opened.focus("#train-steps")
        opened.keyboard.press("End")
        opened.focus("#train-start")
        opened.keyboard.press("Enter")
        opened.wait_for_selector("#train-measures tr")
        opened.focus("#train-stop")
        opened.keyboard.press("Enter")
        assert re.fullmatch(r"Stopped after \d+ steps\.", opened.locator("#train-note").text_content())
        assert opened.locator("#train-start").is_enabled()
        assert "means = torch.tensor([[0.0, 0.0], [0.2, 0.1]])" in opened.locator("#train-python").text_content()
        opened.fill("#train-seed", "-1")
        opened.evaluate("document.getElementById('train-form').noValidate = true")
        opened.click("#train-start")
        opened.wait_for_selector("#train-error:not([hidden])")
        assert "seed must be in 0" in opened.locator("#train-error").text_content()


def test_generate_by_keyboard_alone(browser: Any, address: str, tmp_path: Path) -> None:
    """From the tab to a picture on disk that says how it was made, without the mouse."""
    with page(browser, address) as opened:
        opened.focus("#tab-worlds")
        for _ in range(2):
            opened.keyboard.press("ArrowRight")
        assert opened.is_visible("#generate")
        assert opened.input_value("#generate-label") == ""  # in turn, until a class is chosen
        assert opened.inner_text("#generate-label option:first-child") == "In turn"
        opened.focus("#generate-label")
        opened.keyboard.press("7")
        opened.focus("#generate-n")
        opened.keyboard.press("Control+A")
        opened.keyboard.type("4")
        opened.keyboard.press("Enter")
        opened.wait_for_selector("#generate-picture:not([hidden])")
        opened.wait_for_function("() => document.getElementById('generate-picture').naturalWidth > 0")
        assert "evaluations for each sample" in opened.inner_text("#generate-note")
        assert "--label 7" in opened.text_content("#generate-command")
        opened.focus("#generate-download")
        with opened.expect_download() as download:
            opened.keyboard.press("Enter")
        download.value.save_as(tmp_path / "grid.png")
    said = subprocess.run(
        [sys.executable, "-m", "langevin", "replay", "grid.png", "--show"], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(said.stdout)["words"][-2:] == ["--label", "7"]


def painted(page: Any) -> int:
    """Pixels of the picture that are painted over."""
    red = """canvas => {
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
        let found = 0;
        for (let i = 0; i < data.length; i += 4) found += data[i] > data[i + 1] + 60;
        return found;
    }"""
    return int(page.locator("#restore-canvas").evaluate(red))


def test_a_hole_is_painted_and_filled(browser: Any, address: str) -> None:
    """By mouse and by keyboard, with undo; what is known stays as it was."""
    with page(browser, address, "restore") as opened:
        opened.wait_for_function("() => document.getElementById('restore-canvas').width === 8")
        canvas = opened.locator("#restore-canvas")
        box = canvas.bounding_box()
        assert painted(opened) == 0
        assert opened.input_value("#restore-label") == ""
        opened.click("#restore-form button[type=submit]")
        opened.wait_for_selector("#restore-error:has-text('paint over something first')")
        opened.check("[name=restore-tool][value=box]")
        cell = box["width"] / 8
        opened.mouse.move(box["x"] + 2.5 * cell, box["y"] + 2.5 * cell)
        opened.mouse.down()
        opened.mouse.move(box["x"] + 4.5 * cell, box["y"] + 5.5 * cell, steps=3)
        opened.mouse.up()
        opened.click("#tab-restore")  # the brush is shown while the canvas has the focus
        assert painted(opened) == 12
        opened.check("[name=restore-tool][value=pen]")
        slide(opened, "restore-brush", 1)
        canvas.focus()
        for key in ("ArrowRight", "ArrowRight", "Space"):
            opened.keyboard.press(key)
        opened.click("#tab-restore")
        assert painted(opened) == 13
        opened.click("#restore-undo")
        assert painted(opened) == 12
        opened.click("#restore-redo")
        assert painted(opened) == 13
        opened.click("#restore-undo")
        opened.click("#restore-undo")
        assert painted(opened) == 0
        opened.click("#restore-redo")
        assert painted(opened) == 12
        opened.click("#restore-invert")
        assert painted(opened) == 52
        opened.click("#restore-undo")
        opened.click("#restore-form button[type=submit]")
        opened.wait_for_selector("#restore-results figure")
        assert opened.locator("#restore-results figure").count() == 1 + 4 + 2
        assert "PSNR" in opened.inner_text("#restore-note")


def test_files_that_are_no_pictures(browser: Any, address: str, tmp_path: Path) -> None:
    with page(browser, address, "restore") as opened:
        opened.wait_for_function("() => document.getElementById('restore-canvas').width === 8")
        wrong, large, fine = tmp_path / "wrong.png", tmp_path / "large.png", tmp_path / "fine.png"
        wrong.write_bytes(b"no picture")
        opened.set_input_files("#restore-file", wrong)
        opened.wait_for_selector("#restore-error:has-text('cannot be read as a picture')")
        with large.open("wb") as file:
            file.truncate(40 * 2**20)
        opened.set_input_files("#restore-file", large)
        opened.wait_for_selector("#restore-error:has-text('40 MiB; 32 are the most')")
        Image.effect_noise((4000, 4000), 90).convert("RGB").save(fine, compress_level=1)
        assert fine.stat().st_size > 15 * 2**20
        opened.set_input_files("#restore-file", fine)
        opened.wait_for_selector("#restore-note:has-text('fine.png: its central square, brought to 8 × 8.')")
        assert opened.is_hidden("#restore-error")


def test_a_slow_run_is_stopped(browser: Any, address: str) -> None:
    """The server takes the next request at once, and nothing of the first arrives."""
    with page(browser, address, "generate") as opened:
        slide(opened, "generate-steps", 100)
        opened.fill("#generate-n", "64")
        opened.select_option("#generate-sampler", "heun")
        opened.click("#generate-form button[type=submit]")
        opened.click("#generate-stop")
        assert opened.inner_text("#generate-note") == "Stopped."
        assert opened.is_hidden("#generate-picture")
        slide(opened, "generate-steps", 2)
        opened.fill("#generate-n", "1")
        opened.click("#generate-form button[type=submit]")
        opened.wait_for_selector("#generate-picture:not([hidden])")
        assert "-n 1 " in opened.text_content("#generate-command")


def test_samplers_are_compared(browser: Any, address: str) -> None:
    with page(browser, address, "compare") as opened:
        assert opened.input_value("#compare-label") == ""
        opened.uncheck("#compare-samplers input[value=unipc]")
        opened.select_option("#compare-more", "heun")
        slide(opened, "compare-steps", 5)
        opened.click("#compare-form button[type=submit]")
        opened.locator("#compare-rows figure").first.wait_for()
        rows = opened.locator("#compare-rows figcaption").all_inner_texts()
        assert [row.split("(")[-1].split(")")[0] for row in rows[:-1]] == ["default", "dpmpp-2m", "ddim", "heun"]
        assert rows[-1].startswith("Where the paths lead")
        assert opened.locator("#compare-rows img").evaluate_all("all => all.every(i => i.naturalWidth > 100)")
        assert "--steps 5" in opened.text_content("#compare-command")


def measured(page: Any) -> None:
    """Measure the picture that is there, to the end."""
    page.wait_for_function("() => document.getElementById('codes-canvas').width === 8")
    page.locator("#codes-form button[type=submit]:not([disabled])").click()
    page.wait_for_selector("#codes-how:not([hidden])")


def pixels(page: Any, canvas: str) -> list[int]:
    return page.locator(canvas).evaluate(
        """canvas => {
            const other = new OffscreenCanvas(canvas.width, canvas.height);
            const copy = other.getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            return [...copy.getImageData(0, 0, canvas.width, canvas.height).data];
        }"""
    )


def test_a_picture_is_measured(browser: Any, address: str, tmp_path: Path) -> None:
    """A held-out digit and an uploaded one: at the end of its code the picture is there, at its beginning is not."""
    with page(browser, address, "codes") as opened:
        measured(opened)
        rows = opened.locator("#codes-measures tr").all_inner_texts()
        names = [
            "Bits a coordinate at most",
            "Bits a coordinate",
            "Without a model",
            "langevin compress",
            "PNG",
            "WebP",
        ]
        assert all(row.startswith(name) for row, name in zip(rows, names, strict=True))
        assert "64 bytes" in rows[2]
        last = float(opened.locator("#codes-place").get_attribute("max"))
        apart = []
        for place in (0, last):
            slide(opened, "codes-place", place)
            pairs = zip(pixels(opened, "#codes-estimate"), pixels(opened, "#codes-canvas"), strict=True)
            apart.append(max(abs(a - b) for a, b in pairs))
        assert apart[1] <= 8 < apart[0]  # half of one of 17 levels
        assert re.search(r"bytes sent, PSNR \d+", opened.text_content("#codes-where"))
        before = opened.locator("#codes-canvas").evaluate("canvas => canvas.toDataURL()")
        opened.click("#codes-next")
        opened.wait_for_function("before => document.getElementById('codes-canvas').toDataURL() !== before", arg=before)
        assert opened.locator("#codes-found").is_hidden()  # it was of the picture before
        Image.new("L", (30, 20), 128).save(tmp_path / "grey.png")
        opened.set_input_files("#codes-file", tmp_path / "grey.png")
        opened.get_by_text("grey.png: its central square, brought to 8 × 8.").wait_for()
        assert set(pixels(opened, "#codes-canvas")) == {128, 255}
        measured(opened)
        (tmp_path / "text.png").write_text("no picture")
        opened.set_input_files("#codes-file", tmp_path / "text.png")
        opened.wait_for_selector("#codes-error:not([hidden])")
        assert "text.png: file cannot be read as a picture" in opened.text_content("#codes-error")


def test_an_error_is_shown_where_it_was_made(browser: Any, address: str) -> None:
    with page(browser, address, "generate") as opened:
        opened.select_option("#generate-sampler", "rk45")
        opened.click("#generate-form button[type=submit]")
        opened.wait_for_selector("#generate-error:has-text('steps must be left out')")
        assert opened.is_enabled("#generate-form button[type=submit]")


def test_two_users_and_a_refresh_in_mid_run(browser: Any, address: str) -> None:
    with page(browser, address) as one, page(browser, address) as two:
        one.select_option("#worlds-world", "spiral")
        two.select_option("#worlds-world", "two")
        two.reload()
        two.wait_for_selector("body[data-ready]")
        settled(one, world="spiral")
        settled(two, world="ring")
        assert two.input_value("#worlds-world") == "ring"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1920])
def test_nothing_is_cut_off(browser: Any, address: str, width: int, scheme: str) -> None:
    with page(browser, address, viewport={"width": width, "height": 800}, color_scheme=scheme) as opened:
        settled(opened)
        for tab in ("worlds", "train", "generate", "restore", "compare", "codes"):
            opened.click(f"#tab-{tab}")
            if tab == "train":
                slide(opened, "train-steps", 100)
                trained(opened)
            if tab == "codes":
                measured(opened)
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            cut = opened.locator(f"#{tab} :is(label, button, select, th)").evaluate_all(
                """all => all.filter(e => e.offsetParent && e.clientWidth && e.scrollWidth > e.clientWidth + 2)
                    .map(e => e.outerHTML)"""
            )
            assert cut == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser: Any, address: str, scheme: str) -> None:
    """No violation of WCAG 2.1 A and AA that axe finds, on any tab."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    script = Path(axe.__file__).parent / "axe.min.js"
    with page(browser, address, color_scheme=scheme, bypass_csp=True) as opened:
        settled(opened)
        opened.add_script_tag(path=str(script))
        for tab in ("worlds", "train", "generate", "restore", "compare", "codes"):
            opened.click(f"#tab-{tab}")
            if tab == "train":
                slide(opened, "train-steps", 100)
                trained(opened)
            if tab == "codes":
                measured(opened)
            rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
            found = opened.evaluate("rules => axe.run(document, rules)", rules)["violations"]
            assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
