"""Several processes that train one model: which one this is, and what they tell each other.

Every process holds the whole model, takes its share of each batch, and averages gradients with the
others before each optimiser step. The average is one explicit all-reduce of all gradients of a
phase in one flat buffer, not torch's DistributedDataParallel: a step runs up to four phases over
two networks whose `requires_grad` is toggled, R1 and path lengths differentiate twice, and several
passes may add up before the phase ends. Hooks that fire on backward would need a wrapper, a
`no_sync` and a rebuilt bucket plan for each of these; what they would win, communication hidden
behind the backward pass, is small beside the render.

Without a process group there is one process, and every function is the identity.

Numbers and small objects travel between CPUs (gloo), gradients between the devices (NCCL where
they are GPUs). No wait times out: while the main process measures or saves, the others wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from epigraf.config import Config
from epigraf.errors import EpigrafError, TrainingError
from epigraf.training.place import Place, find_place

T = TypeVar("T")
PATIENCE = timedelta(days=7)


class PeerLost(TrainingError):
    """Another process of this run has ended; it says itself, or its launcher does, why."""


def rank() -> int:
    """The number of this process, 0 = the main one, which alone writes files."""
    return dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _grouped() else 1


def is_main() -> bool:
    """Whether this is the process that writes and talks."""
    return rank() == 0


def images_per_process(cfg: Config) -> int:
    """Images of a step that this process takes."""
    return cfg.split(world_size()).per_process


def images_per_pass(cfg: Config) -> int:
    """Images of one forward pass."""
    return cfg.split(world_size()).per_pass


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def joined(device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Join the processes that the environment speaks of (see `find_place`); yields the device.

    On CPUs the threads of a machine are divided among its processes.

    Args:
        device: None picks a GPU of its own for each process, or the CPU where there is none.
    Raises:
        TrainingError: more processes than GPUs on this machine, or they cannot meet.
    """
    place = find_place()
    device = _own_device(place, device)
    if place.size == 1:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        share_threads(place.local_size)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _talking():
        dist.init_process_group(backend, timeout=PATIENCE, rank=place.rank, world_size=place.size)
    yield device
    barrier()
    dist.destroy_process_group()  # after an error the others may be gone: only exit then


def share_threads(processes: int) -> None:
    """Divide the CPU threads of this machine among its processes."""
    if processes > 1:
        torch.set_num_threads(max(torch.get_num_threads() // processes, 1))


def _own_device(place: Place, wanted: torch.device | str | None) -> torch.device:
    if wanted is not None:
        device = torch.device(wanted)
        shared = device.type == "cuda" and device.index is None and place.size > 1
        return torch.device("cuda", place.local_rank) if shared else device
    if not torch.cuda.is_available():
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if place.local_size > found:
        raise TrainingError(
            f"run: {place.local_size} processes on a machine with {found} GPUs; "
            f"give --gpus {found} (or --nproc-per-node {found})"
        )
    return torch.device("cuda", place.local_rank) if place.size > 1 else torch.device("cuda")


@contextmanager
def _talking() -> Iterator[None]:
    """What the backends raise when a peer is gone becomes one line."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[[^]]*\] ?", "", str(error)).split(". ")[0].split("\n")[0]
        raise PeerLost(
            f"run: lost the connection to the other processes ({reason}); "
            f"whole snapshots remain, continue with --resume latest"
        ) from error


def barrier() -> None:
    """Wait for all processes."""
    agree([0])


def agree(values: Sequence[int]) -> list[int]:
    """The largest of each number over all processes: what one wants, all do."""
    if not _grouped():
        return list(values)
    shared = torch.tensor(values, dtype=torch.int64)
    with _talking():
        dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared.tolist()


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks, on each of them."""
    if not _grouped():
        return [value]
    found: list[Any] = [None] * world_size()
    with _talking():
        dist.all_gather_object(found, value)
    return found


def broadcast(value: T) -> T:
    """The main process's value, on each of them."""
    if not _grouped():
        return value
    box: list[Any] = [value]
    with _talking():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(work: Callable[[], T]) -> T:
    """Do something on the main process only; all get the result.

    Raises:
        PeerLost: on the others, where the main one failed. There, whatever `work` raises.
    """
    if not is_main():
        done, value = broadcast((False, None))
        if not done:
            raise PeerLost("run: the main process failed")
        return value  # pyright: ignore[reportReturnType]
    try:
        value = work()
    except (EpigrafError, OSError):
        broadcast((False, None))
        raise
    return broadcast((True, value))[1]


def broadcast_tensor(value: Tensor | None, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The main process's CPU tensor, on each of them; the others give None."""
    if not _grouped():
        assert value is not None
        return value
    tensor = torch.empty(list(shape), dtype=dtype) if value is None else value.contiguous()
    with _talking():
        dist.broadcast(tensor, src=0)
    return tensor


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one dtype by their means over all processes, all at once."""
    if not _grouped() or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    with _talking():
        dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Average the gradients over all processes. With equal shares of a batch that is the gradient
    of the mean over the whole batch. Parameters without one stay without one, on all of them."""
    average([p.grad for p in parameters if p.grad is not None])


def reduce_mean(numbers: dict[str, float]) -> dict[str, float]:
    """Means over all processes by name, in double; the names must be the same on all."""
    if not _grouped():
        return numbers
    flat = torch.tensor(list(numbers.values()), dtype=torch.float64)
    average([flat])
    return dict(zip(numbers, flat.tolist(), strict=True))


def check_in_step(tensors: Iterable[tuple[str, Tensor]], when: str) -> None:
    """Compare a sum over the bits of each tensor between all processes.

    Args:
        tensors: (name, tensor), in the same order everywhere.
        when: for the message, e.g. `at 12.000 kimg`.
    Raises:
        TrainingError: on all of them; names the first tensor that differs.
    """
    if not _grouped():
        return
    names, sums = zip(*((name, _bit_sum(tensor)) for name, tensor in tensors), strict=True)
    ours = torch.stack(sums)
    most, least = ours.clone(), ours.neg()
    with _talking():
        dist.all_reduce(most, dist.ReduceOp.MAX)
        dist.all_reduce(least, dist.ReduceOp.MAX)
    wrong = (most != -least).nonzero().flatten().tolist()
    if wrong:
        raise TrainingError(
            f"run: the processes do not hold the same model any more {when}: {names[wrong[0]]}"
            + (f" and {len(wrong) - 1} more tensors differ" if len(wrong) > 1 else " differs")
            + "; resume from the last snapshot"
        )


def _bit_sum(tensor: Tensor) -> Tensor:
    """Sum of a tensor's bit patterns, int64 [] on the CPU."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    whole = tensor.detach().contiguous().reshape(-1)
    return whole.view(bits[whole.element_size()]).sum(dtype=torch.int64).cpu()
