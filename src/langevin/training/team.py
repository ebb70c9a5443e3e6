"""The processes of a run: one, or those that ``accelerate launch`` started."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import UserError

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where a launcher (torchrun's or MPI's, which accelerate starts) says how many processes there are."""


@dataclass(frozen=True)
class Team:
    """This process's place among those that share a batch.

    Attributes:
        rank: 0 … size − 1; rank 0 writes.
        size: how many.
        device: where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: torch.device | str | None = None) -> Team:
        """The team of this process; on a device of its own choice unless one is named."""
        if any(int(os.environ.get(name, "1")) > 1 for name in _SIZES):
            from accelerate import PartialState
            from accelerate.utils import DistributedType

            cpu = not torch.cuda.is_available() if device is None else torch.device(device).type == "cpu"
            state = PartialState(cpu=cpu)
            if state.distributed_type not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
                raise UserError(f"training runs on several CPUs or GPUs, got {state.distributed_type.value}")
            return cls(state.process_index, state.num_processes, state.device)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(0, 1, torch.device(device))

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The rows of a batch that are this process's."""
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def wrap(self, network: nn.Module) -> nn.Module | None:
        """The network with gradients averaged over the team; None for a team of one."""
        if self.size == 1:
            return None
        if type(network).forward is nn.Module.forward:
            raise UserError(f"a codec is trained by one process, got {self.size}")
        ids = [self.device.index] if self.device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(network, device_ids=ids)
        wrapped.config = network.config  # what a denoiser asks its network for
        return wrapped

    def mean(self, *values: float) -> list[float]:
        """The mean of each number over the team."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [v / self.size for v in total.tolist()]

    def gather(self, part: Tensor) -> Tensor:
        """The parts of a batch, put together in the order of its rows."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        torch.distributed.all_gather(parts, part)
        return torch.cat(parts)
