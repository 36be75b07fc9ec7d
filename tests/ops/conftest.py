"""Every op test runs natively and in plain torch, on the CPU and where present on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from epigraf.ops import available, reason, use_reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine."""
    return torch.device(request.param)


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each implementation of an op."""
    if request.param == "native" and not available():
        pytest.skip(reason())
    with use_reference(request.param == "reference"):
        yield request.param


@pytest.fixture
def native() -> None:
    """For tests that compare the native core with the reference."""
    if not available():
        pytest.skip(reason())
