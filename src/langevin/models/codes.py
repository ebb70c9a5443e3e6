"""Data as the codes of a codec: what a denoiser of codes is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .._errors import UserError, check_instance
from ..data import DataInfo, Dataset, Split
from ..data.description import FULL_COVARIANCE
from ..distributions import Noise, Stream
from ..storage import files
from ..storage.untrusted import room
from .codec import Autoencoder


class Codes(Split):
    """A split as codes: z ~ q(z | x), drawn anew for each (seed, index, draw); what belongs to x stays with it.

    Args:
        split: the data.
        mean: of q(z | x) of each example, ``(N, *latent)``; of a split that is mirrored ``(2N, *latent)``, the mirrored
            ones last.
        std: its standard deviations, of the same shape.
    """

    def __init__(self, split: Split, mean: Tensor, std: Tensor) -> None:
        super().__init__(mean[: len(split)])
        self.split, self.mean, self.std, self.flip = split, mean, std, split.flip

    @property
    def labels(self) -> Tensor | None:
        return self.split.labels

    def batch(self, indices: Tensor, *, seed: int = 0, draw: int = 0) -> dict[str, Tensor]:
        found = self.split.batch(indices, seed=seed, draw=draw)
        noise = Noise(seed, indices, draw=draw).fold_in(Stream.CODES)
        at = indices
        if self.flip:
            at = indices + len(self) * self.split.mirrored(indices, seed, draw).long()
        z = self.mean[at] + self.std[at] * noise.normal(tuple(self.mean.shape[1:])).to(self.mean)
        return {**found, "x": z}

    def plain(self, indices: Tensor) -> dict[str, Tensor]:
        return {**self.split.plain(indices), "x": self.mean[indices]}


@torch.no_grad()
def encode(
    dataset: Dataset, codec: Autoencoder, *, batch: int = 256, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """A data set as the codes of a codec, for training a denoiser of codes (arXiv:2112.10752).

    Every example is encoded once, and once more mirrored where training mirrors.

    Args:
        dataset: of the shape the codec takes.
        codec: as ``langevin.load`` gives it.
        batch: examples of one evaluation.
        progress: called as ``progress(done, total)``.

    Returns:
        A data set that remembers the codec: ``training.train`` makes a ``Latent`` of it.

    Raises:
        UserError: for data of another shape, or random windows, whose codes are not known before.
    """
    check_instance("codec", codec, Autoencoder, "a codec, as langevin.load gives one of `--network.name vae`")
    info = dataset.info
    if tuple(info.shape) != codec.shape:
        raise UserError(f"the codec is for data of shape {codec.shape}, got {info.shape}")
    if dataset.stream is not None:
        raise UserError("codes are made once, before training, so data cannot be streamed; leave out streaming")
    if dataset.train.crop is not None:
        raise UserError("codes are made once, so crop='random' cannot be; use crop='center'")
    total = len(dataset.train) * (2 if dataset.train.flip else 1) + len(dataset.test)
    room(8 * total * codec.latent[0] * codec.latent[1] * codec.latent[2], f"the codes of {total} examples")
    done = 0
    parts = []
    for split in (dataset.train, dataset.test):
        means, stds = [], []
        for mirror in (False, True) if split.flip else (False,):
            for rows in torch.arange(len(split)).split(batch):
                x = split.plain(rows)["x"]
                law = codec.encode((x.flip(-1) if mirror else x).to(codec.device))
                means.append(law.mean.float().cpu())
                stds.append(law.covariance.diagonal(codec.latent).sqrt().float().cpu().expand_as(means[-1]))
                done += len(rows)
                if progress is not None:
                    progress(done, total)
        parts.append(Codes(split, torch.cat(means), torch.cat(stds)))
    weights = files.digest(files.as_safetensors(codec.network.state_dict()))["sha256"]
    return Dataset(_info(info, parts[0], str(weights)), parts[0], parts[1], dataset.skipped, replace(codec, data=info))


def _info(info: DataInfo, codes: Codes, codec: str) -> DataInfo:
    """The description of codes: their moments, with the variance of q(z | x), what belongs to the data, and the SHA-256
    of the codec's weights."""
    z, variance = codes.mean.flatten(1).double(), codes.std.flatten(1).double().square().mean(0)
    mean = z.mean(0)
    centred = z - mean
    full = z.shape[1] <= FULL_COVARIANCE
    cov = centred.T @ centred / len(z) + variance.diag() if full else centred.square().mean(0) + variance
    return DataInfo(
        name=info.name,
        shape=tuple(codes.mean.shape[1:]),
        low=None,
        high=None,
        classes=info.classes,
        conditions={name: shape for name, shape in info.conditions.items() if name != "label"},
        mean=mean,
        cov=cov,
        source={**info.source, "codec": codec},
    )
