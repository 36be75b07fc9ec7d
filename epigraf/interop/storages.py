"""Numbers in the old format of `torch.save`, which snapshots embed once for each storage.

A blob is five pickles (a magic number, the version, the sizes of C's types, the object, the list of
its storages' keys) and then, per storage, the count of its numbers (8 bytes) and the numbers. They
are read by the same interpreter as everything else; the numbers stay where they are.
"""

from __future__ import annotations

from typing import Any

import torch

from epigraf.interop.inert import Global, PickleError, Storage
from epigraf.interop.unpickler import Budget, Machine, Vocabulary

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_MODULES = ("torch", "torch.storage", "torch.cuda")


def read_storage(blob: memoryview, budget: Budget) -> Storage:
    """The storage in a blob of `torch.save`, whatever device it was saved from.

    Raises:
        PickleError: not such a blob, of a byte order that is not this machine's, truncated.
    """
    found: list[tuple[str, int, Storage]] = []
    words = Vocabulary(_find, _refuse)
    header = []
    at = 0
    for _ in range(3):
        machine = Machine(blob, words, budget, at)
        header.append(machine.run())
        at = machine.at
    if header[0] != _MAGIC or header[1] != _PROTOCOL or not isinstance(header[2], dict):
        raise PickleError("not numbers in torch's old format")
    if header[2].get("little_endian") is not True:
        raise PickleError("numbers of a machine with the other byte order")

    def persistent(key: Any) -> Storage:
        found.append(_described(key))
        return found[-1][2]

    machine = Machine(blob, Vocabulary(_find, _refuse, persistent), budget, at)
    value = machine.run()
    machine = Machine(blob, words, budget, machine.at)
    keys = machine.run()
    if len(found) != 1 or value is not found[0][2] or keys != [found[0][0]]:
        raise PickleError("a blob of torch that is not one storage")
    return _with_numbers(blob, machine.at, found[0])


def _find(module: str, name: str) -> Global | None:
    return Global(module, name) if module in _MODULES and name in _TYPES else None


def _refuse(function: Global, _: tuple[Any, ...], __: Machine) -> Any:
    raise PickleError(f"a call of {function} among the numbers of a tensor")


def _described(key: Any) -> tuple[str, int, Storage]:
    """Key, count of numbers, and the storage still without them, of a persistent id."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage":
        raise PickleError("a persistent id that is not a storage")
    kind, name, device, count = key[1:5]
    fits = isinstance(kind, Global) and isinstance(name, str) and isinstance(device, str)
    if not fits or type(count) is not int or (len(key) == 6 and key[5] is not None):
        raise PickleError("a storage that is described in an unknown way")
    return name, count, Storage(_TYPES[kind.name], memoryview(b""), device)


def _with_numbers(blob: memoryview, at: int, found: tuple[str, int, Storage]) -> Storage:
    _, count, storage = found
    data = blob[at + 8 :]
    announced = int.from_bytes(blob[at : at + 8], "little")
    if announced != count or count * storage.dtype.itemsize != len(data):
        raise PickleError(
            f"truncated: {count} numbers of {storage.dtype.itemsize} bytes are announced, "
            f"{len(data)} bytes are there"
        )
    return Storage(storage.dtype, data, storage.device)
