"""What a foreign pickle turns into: data that does nothing.

Objects of a pickle become `Instance`s that remember what they were called and what they were given;
tensors and arrays remember where in the file their numbers lie. Nothing here has behaviour that the
file could choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epigraf.errors import CheckpointError

MAX_DIMENSIONS = 16
_NUMBERS = "biuf"  # kinds of numpy types that are plain numbers


class PickleError(CheckpointError):
    """A pickle that is damaged, or that holds what a snapshot has no use for."""


@dataclass(frozen=True, eq=False, repr=False)
class Global:
    """A name that the pickle imports, as text: `module` and `name`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Instance:
    """An object: its type, what it was constructed with, its state and what it contains."""

    type: Global
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)

    def attributes(self) -> dict[Any, Any]:
        """The state, where it is a mapping (or a mapping beside slots); else nothing."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else {}


class Items(dict[Any, Any]):
    """A mapping of a named kind (OrderedDict, EasyDict); attributes besides are dropped."""


@dataclass(eq=False, repr=False)
class Module:
    """A persistent module: the class it was, its attributes; its source text is not kept."""

    name: str
    state: dict[Any, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Storage:
    """Numbers in the file: their type, where they lie, the device that they were saved from."""

    dtype: torch.dtype
    data: memoryview
    device: str

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize

    @property
    def address(self) -> int:
        """Where the numbers lie in memory; 0 for none. One blob may have become many storages."""
        return np.frombuffer(self.data, np.uint8).ctypes.data if len(self.data) else 0


@dataclass(frozen=True, eq=False, repr=False)
class StoredTensor:
    """A view into a storage, checked to lie inside of it; `load` copies it onto the CPU."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def checked(cls, storage: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
        """The view, if it is one.

        Raises:
            PickleError: not sizes and strides, more elements than stored, or out of bounds.
        """
        if not isinstance(storage, Storage):
            raise PickleError("a tensor without a storage")
        numbers = (offset, *_sizes(shape), *_sizes(strides))
        if len(shape) != len(strides) or not all(_is_size(n) for n in numbers):
            raise PickleError("a tensor whose sizes are not numbers")
        if math.prod(shape) > max(len(storage), 1):
            raise PickleError(f"a tensor of shape {list(shape)} over {len(storage)} stored numbers")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if 0 not in shape and last >= len(storage):
            raise PickleError(
                f"a tensor that ends at number {last} of {len(storage)} stored numbers"
            )
        return cls(storage, offset, tuple(shape), tuple(strides))

    def load(self) -> Tensor:
        """The tensor, contiguous, on the CPU."""
        dtype = self.storage.dtype
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=dtype)
        extent = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        first, last = self.offset * dtype.itemsize, (self.offset + extent) * dtype.itemsize
        raw = torch.from_numpy(np.frombuffer(self.storage.data[first:last], np.uint8).copy())
        return raw.view(dtype).as_strided(self.shape, self.strides).contiguous()

    @property
    def nbytes(self) -> int:
        """What `load` keeps."""
        return math.prod(self.shape) * self.storage.dtype.itemsize


@dataclass(eq=False, repr=False)
class Dtype:
    """The type of a numpy array: letter and size, like `f8`; its byte order from `build`."""

    code: str
    order: str = "<"

    def build(self, state: Any) -> None:
        """Take the byte order from the state that numpy pickles; structured types are refused."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise PickleError("a numpy type in a state that is not known")
        if any(part is not None for part in state[2:5]):
            raise PickleError("a structured numpy type")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """The real type; plain numbers only.

        Raises:
            PickleError: objects, texts, records, ...
        """
        kind, size = self.code[:1], self.code[1:]
        if kind not in _NUMBERS or size not in ("1", "2", "4", "8"):
            raise PickleError(f"a numpy array of type {self.code!r}; only plain numbers are read")
        try:
            return np.dtype(self.order + self.code)
        except TypeError:
            raise PickleError(f"an unknown numpy type {self.code!r}") from None


@dataclass(eq=False, repr=False)
class Array:
    """A numpy array; no model needs its numbers."""

    def build(self, state: Any) -> None:
        """Check (version, shape, type, is_fortran, bytes), which is dropped."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Dtype):
            raise PickleError("a numpy array in a state that is not known")


def _sizes(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS:
        raise PickleError("a tensor whose sizes are not a tuple")
    return value


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62
