"""The web application: its page, its socket, and who may speak to it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import langevin
from langevin import UserError
from langevin.cli.entry import main
from langevin.playground.app import STATIC, create_app
from langevin.playground.server import PORT, listen


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A digits model of a few steps, with captions for none and classes for all."""
    folder = tmp_path_factory.mktemp("play") / "digits"
    words = "train digits --steps 2 --batch 8 --network.name unet --network.options width 8 multipliers [1] blocks [1]"
    assert main([*words.split(), "conditions", '{"label": 10}', "attention", "[]", "--out", str(folder)]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def client(model: str):
    with TestClient(create_app([(model, langevin.load(model))])) as client:
        yield client


def ask(client: TestClient, op: str, **arguments: Any) -> list[dict[str, Any]]:
    """What a page is told of one request."""
    with client.websocket_connect("/work") as line:
        line.send_json({"id": 1, "op": op, "arguments": arguments})
        said = []
        while not said or said[-1]["event"] not in ("result", "error"):
            said.append(line.receive_json())
    return said


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for file in STATIC.iterdir():
        assert client.get(f"/static/{file.name}").content == file.read_bytes()
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_every_sampler_that_is_offered_has_a_family(client: TestClient) -> None:
    choices = client.get("/choices").json()
    offered = {name for named in choices["worlds"]["samplers"].values() for name in named} - {"default"}
    assert offered <= set(choices["families"])
    assert choices["families"]["dpmpp-2m"].startswith("Multistep")
    assert choices["families"]["ddim"].startswith("Euler, DDIM")


def test_the_page_loads_nothing_from_elsewhere_and_is_small() -> None:
    """All of it under 500 KB, and no address in it but the namespace of SVG."""
    held = {file.name: file.read_text() for file in STATIC.iterdir()}
    assert sum(map(len, held.values())) < 500_000
    known = {"http://www.w3.org/2000/svg"}
    for text in held.values():
        assert set(re.findall(r"https?://[\w./-]+", text)) <= known


def test_names_and_origins_of_others_are_refused(client: TestClient) -> None:
    """A page of another site may send requests here, under its own name or with its origin: it hears nothing."""
    assert client.get("/choices", headers={"host": "elsewhere.example"}).status_code == 400
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/work", headers={"origin": "https://elsewhere.example"}) as line,
    ):
        line.receive_json()
    with client.websocket_connect("/work", headers={"origin": "http://testserver"}) as line:
        line.send_text("no JSON {")
        line.send_json({"id": 3, "op": "none"})
        assert line.receive_json()["event"] == "error"


def test_choices(client: TestClient, model: str) -> None:
    found = client.get("/choices").json()
    assert found["worlds"]["worlds"]["ring"] == 8
    (about,) = found["generate"]["models"]
    assert about["name"] == model
    assert len(about["classes"]) == 10


def test_two_pages_do_not_mix(client: TestClient) -> None:
    """The same request on two sockets at once, with others between: each hears of its own alone, and the same."""
    with client.websocket_connect("/work") as one, client.websocket_connect("/work") as two:
        one.send_json({"id": 11, "op": "worlds", "arguments": {"n": 20, "steps": 4}})
        two.send_json({"id": 22, "op": "worlds", "arguments": {"n": 20, "steps": 4}})
        heard = []
        for line in (one, two):
            said = [line.receive_json()]
            while said[-1]["event"] != "result":
                said.append(line.receive_json())
            heard.append(said)
    assert {m["id"] for m in heard[0]} == {11}
    assert {m["id"] for m in heard[1]} == {22}
    ends = [{k: v for k, v in said[-1].items() if k != "id"} for said in heard]
    assert ends[0] == ends[1]


def test_a_drawn_picture_is_drawn_again(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``langevin replay`` of the download, and by the lines of Python."""
    *_, said = ask(client, "generate", n=4, steps=3, label=7, scale=2.0, seed=5)
    assert said["event"] == "result", said
    assert (said["evaluations"], said["calls"]) == (3, 6)  # guidance asks the network twice
    file = tmp_path / said["name"]
    file.write_bytes(base64.b64decode(said["file"]))
    monkeypatch.chdir(tmp_path)
    assert main(["replay", str(file), "--out", "again"]) == 0
    space: dict[str, Any] = {}
    exec(said["python"], space)
    low, high = -1, 1
    seen = langevin.training.image_grid(space["x"].clamp(low, high), names=["7"])
    ours, theirs = (np.asarray(picture.convert("L"), int) for picture in (seen, Image.open(file)))
    assert abs(ours - theirs).max() <= 1  # rounding


def test_unfinished_samples_are_shown(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langevin.playground.generate.PAUSE", 0.0)
    said = ask(client, "generate", n=4, steps=3, label=7)
    shown = [message["images"]["shape"] for message in said if message["event"] == "preview"]
    assert shown
    assert all(shape == [4, 1, 8, 8] for shape in shown)
    image = Image.open(io.BytesIO(base64.b64decode(said[-1]["file"])))
    assert image.mode == "RGB"


def test_a_tolerance_says_what_it_tries(client: TestClient) -> None:
    said = ask(client, "generate", n=4, tolerance=0.3, steps=None)
    notes = [message["text"] for message in said if message["event"] == "note"]
    assert notes[:2] == [f"Choosing the number of steps: trying {steps} …" for steps in (2, 4)]
    assert said[-1]["event"] == "result"
    assert f"{said[-1]['evaluations']} evaluations: the estimated error" in said[-1]["note"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"model": "x"}, "unknown model 'x'"),
        ({"label": 10}, "label must be in 0…9"),
        ({"caption": "a cat"}, "this model takes none"),
        ({"caption": 4}, "caption must be text"),
        ({"sampler": "ddmi"}, "unknown sampler 'ddmi'"),
        ({"grid": "x"}, "unknown grid"),
        ({"n": 65}, "n must be in 1…64"),
        ({"steps": 0}, "steps must be in 1…1000"),
        ({"tolerance": "x"}, "tolerance must be a number"),
        ({"sampler": "dps"}, "dps"),
        ({"seed": 2**60}, "seed must be in"),
    ],
)
def test_bad_requests(client: TestClient, arguments: dict[str, Any], text: str) -> None:
    *_, said = ask(client, "generate", **arguments)
    assert said["event"] == "error"
    assert text in said["message"]
    assert "bug" not in said["message"]


def test_samplers_side_by_side(client: TestClient, model: str) -> None:
    """The distances are those of ``tasks.compare``; the row of the converged paths is at 0; noise has no distance."""
    *_, said = ask(client, "compare", samplers=["ddim", "dpmpp-2m", "ddpm"], steps=5, label=3, seed=2)
    assert said["event"] == "result", said
    rows = {row["sampler"]: row for row in said["rows"]}
    assert list(rows) == ["ddim", "dpmpp-2m", "ddpm", "converged"]
    (side,) = langevin.tasks.compare.compare(model, ["ddim"], [5], given={"label": 3}, n=16, seed=2).sides
    assert rows["ddim"]["distance"] == pytest.approx(side.cells[0].median, rel=1e-5)
    assert rows["ddpm"]["distance"] is None
    image = Image.open(io.BytesIO(base64.b64decode(rows["converged"]["picture"].split(",")[1])))
    assert image.width > 5 * image.height
    assert said["command"].startswith(f"langevin compare {model} --samplers ddim dpmpp-2m ddpm --steps 5 --seed 2")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"samplers": []}, "samplers must be one to 6 names"),
        ({"samplers": ["ddim"] * 7}, "samplers must be one to 6 names"),
        ({"samplers": "ddim"}, "samplers must be one to 6 names"),
        ({"samplers": ["dps"]}, "'dps' is none that draws from noise"),
        ({"steps": 0}, "steps must be in 1…200"),
        ({"label": "three"}, "label must be a whole number"),
    ],
)
def test_bad_comparisons(client: TestClient, arguments: dict[str, Any], text: str) -> None:
    *_, said = ask(client, "compare", **arguments)
    assert said["event"] == "error"
    assert text in said["message"]


def test_without_a_model() -> None:
    with TestClient(create_app()) as client:
        *_, said = ask(client, "generate")
    assert "langevin play MODEL" in said["message"]


def test_a_port_that_is_taken() -> None:
    """One that is asked for is refused, in one sentence; otherwise the next one is taken."""
    with listen("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", None) as one, listen("127.0.0.1", None) as two:
        assert PORT <= one.getsockname()[1] < two.getsockname()[1]
    with pytest.raises(UserError, match="cannot be had"):
        listen("203.0.113.7", 80)
