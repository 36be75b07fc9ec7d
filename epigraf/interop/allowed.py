"""The closed list of names that a snapshot may use, and what each stands for.

Nothing here is looked up in Python's modules: a name is text, and a call of it makes plain data or
a checked view of the file. What is not listed is refused by name (docs/import.md has the reasons).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from epigraf.interop.inert import (
    Array,
    Dtype,
    Global,
    Instance,
    Items,
    Module,
    PickleError,
    StoredTensor,
)
from epigraf.interop.storages import read_storage
from epigraf.interop.unpickler import Machine, Vocabulary, checked_key

Call = Callable[[Global, tuple[Any, ...], Machine], Any]


def _module(_: Global, args: tuple[Any, ...], __: Machine) -> Module:
    """A persistent object: {type, version, module_src, class_name, state}; no source is read."""
    (meta,) = args
    state = meta.get("state") if isinstance(meta, dict) else None
    if not isinstance(state, dict) or not isinstance(meta.get("class_name"), str):
        raise PickleError("a persistent object without class and state")
    return Module(meta["class_name"], state)


def _mapping(_: Global, args: tuple[Any, ...], __: Machine) -> Items:
    """A kind of dict, made empty or (OrderedDict) of pairs; a defaultdict forgets its default."""
    pairs = args[0] if args and isinstance(args[0], list | tuple) else ()
    return Items((checked_key(key), value) for key, value in pairs)


def _instance(type_: Global, args: tuple[Any, ...], _: Machine) -> Instance:
    return Instance(type_, args)


def _set(_: Global, args: tuple[Any, ...], __: Machine) -> set[Any]:
    return set(map(checked_key, args[0] if args and isinstance(args[0], list) else ()))


def _shape(_: Global, args: tuple[Any, ...], __: Machine) -> tuple[Any, ...]:
    return tuple(args[0]) if isinstance(args[0], list | tuple) else ()


def _storage(_: Global, args: tuple[Any, ...], machine: Machine) -> Any:
    (blob,) = args
    if not isinstance(blob, memoryview):
        raise PickleError("a storage whose bytes are not bytes")
    try:
        return read_storage(blob, machine.budget)
    except PickleError as error:
        raise PickleError(f"in the storage of the {machine.place}: {error}") from None


def _tensor(_: Global, args: tuple[Any, ...], __: Machine) -> StoredTensor:
    return StoredTensor.checked(*args[:4])


def _first(_: Global, args: tuple[Any, ...], __: Machine) -> Any:
    """A parameter is its tensor."""
    if not args or not isinstance(args[0], StoredTensor):
        raise PickleError("a parameter that is not a tensor")
    return args[0]


def _dtype(_: Global, args: tuple[Any, ...], __: Machine) -> Dtype:
    if not args or not isinstance(args[0], str):
        raise PickleError("a numpy type without its letter")
    return Dtype(args[0])


def _scalar(_: Global, args: tuple[Any, ...], __: Machine) -> int | float | bool:
    kind, raw = args
    if not isinstance(kind, Dtype) or not isinstance(raw, memoryview):
        raise PickleError("a numpy number without its type or bytes")
    return np.frombuffer(raw, kind.numpy(), count=1)[0].item()


def _array(_: Global, __: tuple[Any, ...], ___: Machine) -> Array:
    return Array()


def _latin_bytes(_: Global, args: tuple[Any, ...], machine: Machine) -> memoryview:
    """How protocol 2 writes byte strings."""
    text, encoding = args
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickleError("text that is encoded in an unexpected way")
    machine.budget.text -= len(text)  # repeated calls on one text must not multiply it
    if machine.budget.text < 0:
        raise PickleError("too much encoded text")
    return memoryview(text.encode("latin-1"))


def _type_only(type_: Global, _: tuple[Any, ...], __: Machine) -> Any:
    raise PickleError(f"a call of {type_}, which is a type here and nothing to call")


def _table(call: Call, *names: str) -> dict[str, Call]:
    return dict.fromkeys(names, call)


_CALLS: dict[str, Call] = {
    **_table(
        _module,
        "src.torch_utils.persistence._reconstruct_persistent_obj",
        "torch_utils.persistence._reconstruct_persistent_obj",
    ),
    **_table(
        _mapping,
        "collections.OrderedDict",
        "collections.defaultdict",
        "src.dnnlib.util.EasyDict",
        "dnnlib.util.EasyDict",
    ),
    **_table(_storage, "torch.storage._load_from_bytes"),
    **_table(_tensor, "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"),
    **_table(
        _first,
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
    ),
    **_table(_shape, "torch.Size"),
    **_table(
        _scalar, "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"
    ),
    **_table(
        _array,
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.numeric._frombuffer",
        "numpy._core.numeric._frombuffer",
    ),
    **_table(_dtype, "numpy.dtype"),
    **_table(_latin_bytes, "_codecs.encode"),
    **_table(_set, "builtins.set", "__builtin__.set"),
    **_table(
        _type_only,
        "numpy.ndarray",
        *(f"{m}.{n}" for m in ("builtins", "__builtin__")
          for n in ("bool", "bytes", "dict", "float", "int", "list", "object", "str", "tuple")),
        *(f"typing.{n}" for n in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
        *(f"torch.{n}" for n in ("float16", "bfloat16", "float32", "float64", "int64", "uint8",
                                 "contiguous_format", "channels_last", "strided")),
    ),
    **_table(
        _instance,
        "torch.device",
        *(f"omegaconf.{n}" for n in (
            "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata",
            "base.Metadata", "nodes.AnyNode", "nodes.BooleanNode", "nodes.BytesNode",
            "nodes.EnumNode", "nodes.FloatNode", "nodes.IntegerNode", "nodes.PathNode",
            "nodes.StringNode",
        )),
        *(f"torch.nn.modules.{n}" for n in (
            "container.ModuleDict", "container.ModuleList", "container.ParameterList",
            "container.Sequential", "activation.LeakyReLU", "activation.ReLU",
            "activation.Sigmoid", "activation.Softplus", "linear.Identity", "linear.Linear",
            "sparse.Embedding",
        )),
        *(f"torch.optim.{n}" for n in ("adam.Adam", "adamw.AdamW", "sgd.SGD")),
        # Plain (not persistent) modules of EG3D.
        "training.triplane.OSGDecoder",
        *(f"training.superresolution.SuperresolutionHybrid{n}" for n in (
            "2X", "4X", "8X", "8XDC", "Deepfp32",
        )),
        "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
        "training.volumetric_rendering.ray_sampler.RaySampler",
        "training.volumetric_rendering.renderer.ImportanceRenderer",
    ),
}  # fmt: skip


def find(module: str, name: str) -> Global | None:
    """The name as data, where it is on the list."""
    return Global(module, name) if f"{module}.{name}" in _CALLS else None


def call(function: Global, args: tuple[Any, ...], machine: Machine) -> Any:
    """What a call of a listed name stands for."""
    return _CALLS[str(function)](function, args, machine)


SNAPSHOT = Vocabulary(find, call)
