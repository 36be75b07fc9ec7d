"""Tensors of every type and layout, as torch pickles them, read back without torch.load."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from epigraf.interop.allowed import SNAPSHOT
from epigraf.interop.inert import PickleError, Storage, StoredTensor
from epigraf.interop.release import load_tensors
from epigraf.interop.unpickler import Budget, Machine
from tests.interop.released import dumps

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def read(value: object, protocol: int = 4) -> object:
    return Machine(memoryview(dumps(value, protocol)), SNAPSHOT, Budget()).run()


@pytest.mark.parametrize("dtype", DTYPES)
def test_types(dtype: torch.dtype) -> None:
    tensor = (torch.arange(12).reshape(3, 4) % 5 - 2).to(dtype)
    found = read(tensor)
    assert isinstance(found, StoredTensor)
    assert found.storage.device == "cuda:0"
    assert found.load().dtype == dtype
    assert torch.equal(found.load(), tensor)


BASE = torch.arange(60.0).reshape(3, 4, 5)
LAYOUTS: dict[str, Tensor] = {
    "transposed": BASE.permute(2, 0, 1),
    "slice": BASE[1, 1:3, ::2],
    "scalar": BASE[2, 3, 4],
    "empty": BASE[:0],
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "parameter": nn.Parameter(BASE),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, protocol: int) -> None:
    found = read(LAYOUTS[name], protocol)
    assert isinstance(found, StoredTensor)
    loaded = found.load()
    assert torch.equal(loaded, LAYOUTS[name])
    assert loaded.is_contiguous()


def test_views_of_one_storage() -> None:
    one, two = read([BASE[0], BASE[1]])  # type: ignore[misc]
    loaded = load_tensors({"a": one, "b": two})
    assert torch.equal(loaded["b"], BASE[1])


def test_a_storage_is_not_read_many_times_over() -> None:
    storage = Storage(torch.uint8, memoryview(bytes(64)), "cpu")
    whole = StoredTensor.checked(storage, 0, (64,), (1,))
    with pytest.raises(PickleError, match="larger than the numbers behind them"):
        load_tensors({"a": whole, "b": whole})


def test_an_expanded_tensor_is_not_a_weight() -> None:
    with pytest.raises(PickleError, match=r"shape \[9, 4\] over 4 stored numbers"):
        read(torch.arange(4.0).expand(9, 4))
