from __future__ import annotations

import pytest

from epigraf.rendering.budget import RayBudget, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_halving_says_so_and_ends() -> None:
    said: list[str] = []
    budget = RayBudget(3, say=said.append)
    budget.halve(MemoryError())
    assert budget.rays == 1
    assert said == ["out of memory: going on with tiles of 1 rays"]
    with pytest.raises(MemoryError):
        budget.halve(MemoryError())
    with pytest.raises(RuntimeError, match="shapes"):
        RayBudget(8).halve(RuntimeError("shapes differ"))
