"""The processes of a run: one, or those that ``torchrun`` or ``accelerate launch`` started."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where a launcher (torchrun's or MPI's, which accelerate starts) says how many processes there are."""

_LOST = ("gloo", "nccl", "connection", "peer")
"""Words of which the message of a collective that lost a process has one."""


@dataclass(frozen=True)
class ProcessGroup:
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
    def join(cls, device: torch.device | str | None = None) -> ProcessGroup:
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
        """The rows of a batch that are this process's: as many as any other's, or one more."""
        return slice(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)

    def wrap(self, network: nn.Module, sharded: bool = False) -> nn.Module | None:
        """The network with gradients averaged over the team; None for a team of one.

        With ``sharded`` its weights, and so their gradients and the optimiser's moments, are spread over the team
        (FSDP2, ``torch.distributed.fsdp.fully_shard``, in place): a block's are put together while it computes.
        """
        if self.size == 1:
            return None
        if sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            # Of networks that end in a reshape; nothing here writes into what they return.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            mesh = init_device_mesh(self.device.type, (self.size,))
            for part in [p for m in network.modules() if isinstance(m, nn.ModuleList) for p in m]:
                if not isinstance(part, nn.ModuleList) and any(True for _ in part.parameters()):
                    fully_shard(part, mesh=mesh)
            fully_shard(network, mesh=mesh)
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(network, device_ids=ids)
        wrapped.config = network.config  # what a denoiser asks its network for
        return wrapped

    @contextlib.contextmanager
    def apart(self, network: nn.Module, apart: bool) -> Iterator[None]:
        """While ``apart``, a backward pass adds to this process's gradients and waits for no other's."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            with network.no_sync() if apart else contextlib.nullcontext():
                yield
            return
        if hasattr(network, "set_requires_gradient_sync"):
            network.set_requires_gradient_sync(not apart)  # type: ignore[operator]
        yield

    def sum(self, *values: float) -> list[float]:
        """The sum of each number over the team: the same bits on every process."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(v) for v in total.tolist()]

    def average(self, tensors: list[Tensor]) -> None:
        """Each tensor becomes its mean over the team, in place: the same bits on every process."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.size).split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))

    def gather(self, part: Tensor, batch: int) -> Tensor:
        """The parts of a batch, put together in the order of its rows."""
        if self.size == 1:
            return part
        shares = [ProcessGroup(rank, self.size, self.device).share(batch) for rank in range(self.size)]
        counts = [rows.stop - rows.start for rows in shares]
        padded = part.new_zeros(max(counts), *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([p[:n] for p, n in zip(parts, counts)])

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Errors of a team: one process speaks, the others leave with exit code 1 (130 after an interrupt).

        Whoever fails first speaks. A process that fails because another is gone says so, if nobody has spoken; a
        launcher then stops what is left.
        """
        try:
            yield
        except BaseException as error:
            if self.size == 1 or isinstance(error, (SystemExit, GeneratorExit)):
                raise
            if not self._speaks():
                raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
            if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST):
                reason = f"process {self.rank} of {self.size} waits in vain for another, which has stopped"
                raise UserError(f"{reason}; the run goes on from its last checkpoint with --resume") from error
            raise

    def _speaks(self) -> bool:
        """Whether this process is the first to ask."""
        try:
            store: Any = torch.distributed.distributed_c10d._get_default_store()
            return bool(store.compare_set("langevin/speaks", "", str(self.rank)).decode() == str(self.rank))
        except (RuntimeError, ValueError):  # the store has gone with the process that held it
            return True


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is spread over a team, put together on every process; another as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is spread over a team; another as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, spread over the team as ``like`` is."""
    if not hasattr(like, "to_local"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
