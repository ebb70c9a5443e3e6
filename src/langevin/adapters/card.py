"""The model card: what a repository of the Hub says of a model, written from what the model knows of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from .._version import __version__

HOME = "https://github.com/langevin-diffusion/langevin"

TASKS = {"caption": "text-to-image", "image": "image-to-image"}
"""``pipeline_tag`` of a model of images, by a condition that it takes."""


def card(
    about: Mapping[str, Any],
    *,
    name: str,
    licence: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    picture: str | None = None,
    title: str = "",
    notes: str = "",
    sections: Mapping[str, str] | None = None,
    prompt: str = "",
) -> str:
    """The README.md of a model: YAML that the Hub reads, and sections that people do.

    Args:
        about: as ``models.directory.about`` has it.
        name: ``owner/name`` on the Hub.
        licence: as the Hub spells it, such as ``apache-2.0``.
        evaluation: what ``langevin evaluate`` wrote, with its protocols.
        picture: file name of a picture beside the card.
        title: what the model does, a line.
        notes: Markdown that stands under the figures.
        sections: Markdown by title, before the limits.
        prompt: a caption for the lines that show how the model is used, if it takes captions.
    """
    parts = [about] if "network" in about else [v for v in about.values() if isinstance(v, Mapping) and "network" in v]
    # Of a cascade the last stage says what is drawn, the first what it is drawn from; a latent's denoiser says both.
    part = parts[-1] if about.get("kind") == "cascade" else parts[0]
    data, conditions = part.get("data") or {}, parts[0].get("conditions") or []
    image = len(part.get("shape") or []) == 3 and data.get("tokens") is None
    source = str((data.get("source") or {}).get("source", ""))
    kind = str(about.get("kind", "denoiser"))
    drawn = next((TASKS[c] for c in conditions if c in TASKS), "unconditional-image-generation")
    task = {"contrastive-encoder": "zero-shot-image-classification", "classifier": "image-classification"}.get(
        kind, drawn
    )
    front: dict[str, Any] = {
        "library_name": "langevin",
        **({"license": licence} if licence else {}),
        "tags": ["diffusion", "langevin"],
        **({"pipeline_tag": task} if image else {}),
        **({"datasets": [source.removeprefix("hf:")]} if source.startswith("hf:") else {}),
    }
    lines = [
        "---",
        ModelCardData(**front).to_yaml().strip(),
        "---",
        f"# {name}",
        *([title] if title else []),
        f"A {_kind(kind)} of {data.get('name', 'own data')}, made with [langevin]({HOME}) {__version__}.",
        *([f"![Samples of this model]({picture})"] if picture else []),
        f"## Use\n\n```python\nimport langevin\n\n{_use(kind, name, part, conditions, prompt)}\n```",
        "## What it is\n\n" + _table(_rows(part, conditions)),
        "## Data\n\n" + _data(data, source),
        "## Figures\n\n" + (_figures(evaluation) if evaluation or not notes else ""),
        *([notes.strip()] if notes else []),
        *(f"## {name}\n\n{text}" for name, text in (sections or {}).items()),
        "## Limits\n\nSamples follow the training data, with what these lack and what they are biased to. Nothing here "
        "filters what is made." + ("" if licence else " No licence was stated by who published this model."),
    ]
    return "\n\n".join(lines).replace("---\n\nlibrary", "---\nlibrary").replace("\n\n---\n\n#", "\n---\n\n#") + "\n"


def _use(kind: str, name: str, part: Mapping[str, Any], conditions: Any, prompt: str) -> str:
    """The lines of Python that use a model."""
    if kind == "contrastive-encoder":
        shape = ", ".join(map(str, part.get("shape") or []))
        return (
            f'encoder = langevin.load("{name}")\n'
            f'scores = encoder.logits(x, ["a cat", "a house"])  # x: (N, {shape}); scores: (N, 2)'
        )
    if kind in ("classifier", "codec"):
        return f'{kind} = langevin.load("{name}")'
    told = f"{prompt!r}, " if "caption" in conditions and prompt else ""
    scale = "guidance_scale=2.0, " if told else ""
    told += "image=picture, " if "image" in conditions else ""
    about = "# picture: a tensor (C, H, W) in the range of the data\n" if "image" in conditions else ""
    return (
        f'pipe = langevin.Pipeline.from_pretrained("{name}")\n{about}'
        f"images = pipe({told}num_inference_steps=10, {scale}seed=0).images\n\n"
        f'model = langevin.load("{name}")  # for any sampler, guidance and measure of the library'
    )


def _kind(kind: str) -> str:
    return {"denoiser": "diffusion model", "latent": "latent diffusion model"}.get(kind, kind.replace("-", " "))


def _rows(part: Mapping[str, Any], conditions: Any) -> list[tuple[str, str]]:
    process, prediction = part.get("process"), part.get("prediction") or {}
    training = part.get("training") or {}
    rows = [
        ("network", f"{part['network'].get('name')}, {part['parameters'] / 1e6:.2f} M parameters"),
        ("shape of a sample", " × ".join(map(str, part.get("shape") or []))),
        ("process", _said(process) if process else ""),
        ("prediction", _said({k: v for k, v in prediction.items() if v is not None})),
        ("conditions", ", ".join(conditions) or "none"),
        ("training steps", f"{training['steps']:,}" if isinstance(training.get("steps"), int) else ""),
        ("examples seen", f"{training['images']:,}" if isinstance(training.get("images"), int) else ""),
        ("validation loss", f"{training['val_loss']:.4g}" if isinstance(training.get("val_loss"), float) else ""),
    ]
    return [(name, value) for name, value in rows if value]


def _said(values: Mapping[str, Any], most: int = 200) -> str:
    """A mapping in one line, cut off where it is long."""
    text = json.dumps(dict(values), ensure_ascii=False)
    return f"`{text}`" if len(text) <= most else f"`{text[:most]}…`"


def _data(data: Mapping[str, Any], source: str) -> str:
    rows = [
        ("name", str(data.get("name", "not said"))),
        ("source", source),
        ("range", f"{data['low']:g} to {data['high']:g}" if isinstance(data.get("low"), float) else ""),
        ("levels", str(data["levels"]) if data.get("levels") else ""),
        ("classes", ", ".join(map(str, data["classes"]))[:500] if data.get("classes") else ""),
    ]
    return _table([(name, value) for name, value in rows if value])


def _figures(evaluation: Mapping[str, Any] | None) -> str:
    """The measures of ``langevin evaluate``, each with its protocol."""
    if not evaluation:
        return "None were measured: `langevin evaluate MODEL` does, and `langevin publish` puts them here."
    rows, said = [], []
    for name, found in (evaluation.get("measures") or {}).items():
        value = found.get("value") if isinstance(found, Mapping) else found
        rows.append((name, f"{value:.4g}" if isinstance(value, (int, float)) else _said({"value": value})))
        if isinstance(found, Mapping) and "protocol" in found:
            said.append(f"* {name}: {_said(found['protocol'], 5000)}")
    note = [str(evaluation["note"])] if evaluation.get("note") else []
    return "\n\n".join([_table(rows), *note, *(["Protocols:\n\n" + "\n".join(said)] if said else [])])


def _table(rows: list[tuple[str, str]]) -> str:
    cells = [(name, value.replace("|", "\\|").replace("\n", " ")) for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
