"""Named feature spaces, each with the hash of what it computes with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError, nearest
from ..data import DataInfo, Dataset
from ..storage.pickles import foreign
from ._inputs import rows
from .classifiers import MOST, SEEDS, digest, front_end

SPACES = ("pixels", "pca:K", "classifier", "inception", "inception:FILE")

INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""The published FID network under the two names its converters gave it, looked for in torch.hub's checkpoints."""
INCEPTION_SHA256 = "6726825d"
"""How the SHA-256 of that file begins."""


@dataclass(frozen=True)
class Features:
    """A map from examples ``(N, *shape)`` to features float64 ``(N, K)``.

    Args:
        name: as asked for, e.g. ``pca:64``.
        sha256: of its parameters, or ``None`` if it has none.
        settings: how it was made, JSON-able.
        apply: the map.
        classify: probabilities ``(N, classes)`` of examples, where the map is that of a classifier.
    """

    name: str
    sha256: str | None
    apply: Callable[[Tensor], Tensor] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)
    classify: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x)


def feature_space(name: str, dataset: Dataset, *, seed: int = 0) -> Features:
    """A feature space by name (fitting ``pca`` and ``classifier`` takes seconds).

    Args:
        name: ``pixels`` (the flattened event); ``pca:K`` (the first K principal components of the training split);
            ``classifier`` (the last hidden layer, 64 wide, of a small network trained here to tell the classes of the
            training split); ``inception`` (the 2,048 features of published FID, through torchmetrics, with weights in
            torch.hub's checkpoints) or ``inception:FILE`` (with the weights in a file of yours: the same network).
        dataset: gives the training split to fit on.
        seed: of what is fitted, and of the 10,000 training examples used at most.

    Raises:
        UserError: unknown name, K out of range, no classes, or no Inception network on this machine.
    """
    kind, count = parse(name)
    if kind == "pixels":
        return Features("pixels", None, lambda x: rows("x", x, least=1))
    if kind == "classifier":
        return _classifier(dataset, seed)
    if kind == "inception":
        return _inception(dataset.info, name)
    return _pca(name, count, dataset, seed)


def parse(name: str) -> tuple[str, int]:
    """The kind of a feature space and, for ``pca:K``, K (else 0).

    Raises:
        UserError: unknown name or K no positive integer.
    """
    if name in ("pixels", "classifier", "inception"):
        return name, 0
    kind, _, count = str(name).partition(":")
    if kind == "inception" and count:
        return kind, 0
    if kind != "pca":
        raise UserError(f"unknown features {name!r}.{nearest(name, SPACES)} Known: {', '.join(SPACES)}.")
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"features {name!r}: K must be a positive integer, as in 'pca:64'.")
    return kind, int(count)


def _training(dataset: Dataset, seed: int) -> tuple[Tensor, Tensor | None]:
    """At most 10,000 flattened training examples with their labels."""
    index = torch.arange(len(dataset.train))
    if len(index) > MOST:
        index = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))[:MOST].sort().values
    labels = dataset.train.labels
    return rows("train", dataset.train.plain(index)["x"]), None if labels is None else labels[index]


def _pca(name: str, count: int, dataset: Dataset, seed: int) -> Features:
    from sklearn.decomposition import PCA

    flat, _ = _training(dataset, seed)
    most = min(flat.shape)
    if count > most:
        raise UserError(f"features {name!r}: K must be in 1…{most} for {len(flat)} examples of {flat.shape[1]} values.")
    fitted = PCA(count, random_state=seed % SEEDS).fit(flat.numpy())
    return Features(
        name,
        digest(fitted.mean_, fitted.components_),
        lambda x: torch.from_numpy(fitted.transform(rows("x", x, least=1).numpy())),
        {"fitted_on": len(flat), "explained_variance": float(fitted.explained_variance_ratio_.sum())},
    )


def _classifier(dataset: Dataset, seed: int) -> Features:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    flat, labels = _training(dataset, seed)
    if labels is None or len(labels.unique()) < 2:
        raise UserError(f"features 'classifier' need data with at least two classes; {dataset.info.name!r} has none.")
    front = front_end(flat, seed)
    seen = flat.numpy() if front is None else front.transform(flat.numpy())
    network = MLPClassifier((128, 64), max_iter=60, random_state=seed % SEEDS)
    with warnings.catch_warnings():
        # A fixed number of passes is the protocol; scikit-learn would rather go on.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(seen, labels.numpy())

    def hidden(seen: np.ndarray) -> np.ndarray:
        for weight, bias in list(zip(network.coefs_, network.intercepts_))[:-1]:
            seen = np.maximum(seen @ weight + bias, 0)
        return seen

    # The scale of a hidden layer is an accident of training; unit RMS makes distances comparable.
    scale = np.sqrt(np.mean(np.square(hidden(seen))))

    def apply(x: Tensor) -> Tensor:
        flat = rows("x", x, least=1).numpy()
        return torch.from_numpy(hidden(flat if front is None else front.transform(flat)) / scale)

    fitted = () if front is None else (front.mean_, front.components_)
    settings = {
        "network": "sklearn.neural_network.MLPClassifier(128, 64), ReLU, 60 passes",
        "layer": "last hidden, over its RMS on the training data",
        "input": "pixels" if front is None else f"pca:{front.n_components_}",
        "fitted_on": len(flat),
        "training_accuracy": float(network.score(seen, labels.numpy())),
    }

    def classify(x: Tensor) -> Tensor:
        flat = rows("x", x, least=1).numpy()
        return torch.from_numpy(network.predict_proba(flat if front is None else front.transform(flat)))

    sha256 = digest(*fitted, *network.coefs_, *network.intercepts_, np.array(scale))
    return Features("classifier", sha256, apply, settings, classify)


def _inception(info: DataInfo, name: str) -> Features:
    if not info.is_image or info.shape[0] not in (1, 3) or (info.low, info.high) != (-1.0, 1.0):
        raise UserError(f"features 'inception' are for grey or colour images in [-1, 1]; got {info!r}.")
    try:
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import NoTrainInceptionV3
    except ImportError:
        raise UserError("features 'inception' need torchmetrics: pip install 'langevin[metrics]'") from None
    folder = Path(torch.hub.get_dir(), "checkpoints")
    given = name.partition(":")[2]
    if given and not Path(given).expanduser().is_file():
        raise UserError(f"features {name!r}: there is no file {given}")
    files = [Path(given).expanduser()] if given else [folder / file for file in INCEPTION_FILES]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise UserError(
            f"features 'inception': the weights are not on this machine; put {INCEPTION_FILES[0]} (torch-fidelity, "
            f"release v0.2.0) into {folder}."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(INCEPTION_SHA256):
        raise UserError(f"{path} is not the published network: SHA-256 {found[:8]}…, not {INCEPTION_SHA256}…")
    if code := foreign(path):  # eight digits can be forged
        raise UserError(f"{path} is not the published network: it would run {', '.join(code[:8])}")

    def through(layer: str) -> Callable[[Tensor], Tensor]:
        networks: list[Any] = []

        def apply(x: Tensor) -> Tensor:
            if not networks:
                # antialias=False is the resizing of the TensorFlow graph that published FIDs were computed with.
                networks.append(NoTrainInceptionV3("inception-v3-compat", [layer], str(path), antialias=False))
            pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            pixels = pixels.expand(-1, 3, -1, -1)
            with torch.no_grad():
                parts = [networks[0](part).double().cpu() for part in pixels.split(64)]
            return torch.cat(parts)

        return apply

    settings = {"layer": "2048", "resize": "299×299, bilinear as in TensorFlow 1, inside the network", "levels": 256}
    logits = through("logits_unbiased")
    return Features("inception", found, through("2048"), settings, lambda x: logits(x).softmax(1))
