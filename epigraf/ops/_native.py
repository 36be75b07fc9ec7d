"""Finds the native core ``epigraf._C`` once and says which backend runs.

The core knows no torch: it takes addresses, sizes, and threads or a stream. This file is the only
one that turns tensors into those numbers. Without the core every op runs its plain-torch reference.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The calling convention that this Python code speaks; csrc/bindings.cpp states the same number.
_ABI = 16
DTYPES = (torch.float32, torch.float64)
_INSTRUCTION_SETS = {"x86-64-v4": "AVX-512", "x86-64-v3": "AVX2", "default": "baseline"}
_FORCE_REFERENCE: ContextVar[bool] = ContextVar("epigraf_force_reference", default=False)


class _Found(NamedTuple):
    module: ModuleType | None
    reason: str


def _import_core() -> ModuleType:
    """Imports ``epigraf._C`` from beside this package, else from an installed copy of it.

    In a source tree after ``pip install .`` the tree's Python code comes first on the path, but the
    core was built into site-packages. Raises ImportError where there is none.
    """
    try:
        return importlib.import_module("epigraf._C")
    except ModuleNotFoundError:
        installed = [str(Path(folder, "epigraf")) for folder in sys.path]
        spec = PathFinder.find_spec("epigraf._C", installed)
        if spec is None or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@functools.cache
def _find() -> _Found:
    """Looks for the core on first use; a failure becomes a reason, never an exception."""
    try:
        module = _import_core()
    except ImportError as error:
        return _Found(None, f"epigraf._C not built: {error}")
    if getattr(module, "ABI", None) != _ABI:
        return _Found(None, "epigraf._C is from another version: run pip install again")
    return _Found(module, "")


def available() -> bool:
    """Whether the native core was found."""
    return _find().module is not None


def reason() -> str:
    """Why the native core is not used; empty where it is."""
    if _FORCE_REFERENCE.get():
        return "the reference was asked for"
    return _find().reason


# torch.compiler.assume_constant_result(reason), without importing the compiler: a second of every
# command's start.
reason._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def core() -> Any:
    """The module ``epigraf._C``. Raises RuntimeError where it is missing (see `available`)."""
    found = _find()
    if found.module is None:
        raise RuntimeError(found.reason)
    return found.module


def backend_line(device: torch.device | str = "cpu") -> str:
    """One line that says which backend runs the ops on `device`, and why.

    For instance ``native cpu (AVX2 clones, OpenMP 2 threads)`` or ``reference (pure torch):
    epigraf._C not built: No module named 'epigraf._C'``.
    """
    kind = torch.device(device).type
    if reason():
        return f"reference (pure torch): {reason()}"
    if kind == "cuda":
        if core().cuda_compiled():
            return f"native cuda ({torch.cuda.get_device_name(device)})"
        return "reference (pure torch): epigraf._C was built without CUDA"
    if kind != "cpu":
        return f"reference (pure torch): epigraf._C has no code for {kind}"
    clones = _INSTRUCTION_SETS[core().cpu_instruction_set()]
    threads = torch.get_num_threads()
    openmp = (
        f"OpenMP {threads} thread{'s' * (threads > 1)}" if core().cpu_has_openmp() else "serial"
    )
    return f"native cpu ({clones} clones, {openmp})"


@contextlib.contextmanager
def use_reference(flag: bool = True) -> Iterator[None]:
    """Within the block, ops run their plain-torch reference (`flag` True) or the default choice.

    The choice is made when an op is called; its backward pass follows the forward pass.
    """
    token = _FORCE_REFERENCE.set(flag)
    try:
        yield
    finally:
        _FORCE_REFERENCE.reset(token)


def needs_reference(tensor: Tensor) -> bool:
    """Whether an op on tensors of this dtype must run its plain-torch reference, core or not.

    torch.compile traces the reference, which it can fuse; it cannot look into anything else.
    """
    if torch.compiler.is_compiling() or _FORCE_REFERENCE.get():
        return True
    return tensor.dtype not in DTYPES


def runs_native(tensor: Tensor) -> bool:
    """Whether the core handles an op on tensors of this dtype and device, here and now."""
    if needs_reference(tensor) or not available():
        return False
    return tensor.device.type == "cpu" or (tensor.device.type == "cuda" and core().cuda_compiled())


def launch(tensor: Tensor) -> Any:
    """Where and in which precision the core works: from the tensor's device, stream and dtype."""
    double = tensor.dtype == torch.float64
    if tensor.device.type == "cuda":
        stream = torch.cuda.current_stream(tensor.device).cuda_stream
        return core().Launch(double, tensor.device.index, stream, 0)
    return core().Launch(double, -1, 0, torch.get_num_threads())


def addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    """The addresses of the first elements; 0 for None."""
    return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
