"""A generator on its way from a release to a model file: configuration, tensors, what is left."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from epigraf.config import Config


@dataclass
class Weights:
    """A network in our terms.

    Attributes:
        release: `epigraf` or `eg3d`.
        config: what the network is.
        tensors: by our names, on the CPU.
        constants: tensors of the file that are fixed, and part of the code here.
        unmapped: tensors of the file for which there is no place here.
        filled: tensors that the file lacks, and that the configuration determines.
        notes: what else a user should know.
    """

    release: str
    config: Config
    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
