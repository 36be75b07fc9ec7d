"""tiny-cuda-nn's FullyFusedMLP as an engine of the decoder: the only file that imports it.

The network computes in half precision, without biases, with ReLUs and widths of 16 to 128. A
decoder becomes such a network exactly, but for that precision:

* leaky_relu(x) = relu(x) - slope relu(-x): every hidden unit becomes two, with weights w and -w,
  and the next layer takes them with v and -slope v;
* a feature that is always 1 carries the biases of the first layer, a hidden unit that is always 1
  those of inner layers; the biases of the last layer are added outside.

Legend: P points, F features, O outputs, I inputs of a layer. Source: Müller et al. 2021, Real-time
neural radiance caching, section 5 (the fused network); tiny-cuda-nn's documented parameters: one
flat vector of row-major [out, in] matrices, rows of the last one padded to 16.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from epigraf.ops.decoder import check_decode
from epigraf.optional import Optional, import_optional

INSTALL = (
    "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch "
    "(needs a CUDA build of torch and nvcc)"
)
DEVICE = "cuda"  # where it computes
WIDTHS = (16, 32, 64, 128)
_ALIGNMENT = 16  # of the inputs and outputs, which the library pads


@functools.cache
def _found() -> Optional:
    return import_optional("tinycudann", ("Network",))


def why_not_tinycudann() -> str:
    """Why the package cannot be used; empty where it can."""
    return _found().reason


def why_not_layers(weights: Sequence[Tensor]) -> str:
    """Why FullyFusedMLP cannot be the decoder of weights [O_i, I_i]; empty where it can."""
    if len(weights) < 2:
        return "FullyFusedMLP needs a hidden layer"
    hidden = [len(weight) for weight in weights[:-1]]
    needed = 2 * max(hidden) + (len(weights) > 2)
    if needed > WIDTHS[-1]:
        return (
            f"FullyFusedMLP is at most {WIDTHS[-1]} wide, and {max(hidden)} hidden units "
            f"(leaky ReLU: two ReLUs each{', one for the biases' if len(weights) > 2 else ''}) "
            f"need {needed}"
        )
    return ""


def network_width(weights: Sequence[Tensor]) -> int:
    """The width of the hidden layers that hold this decoder: 16, 32, 64 or 128."""
    needed = 2 * max(len(w) for w in weights[:-1]) + (len(weights) > 2)
    return next(width for width in WIDTHS if width >= needed)


def pack(weights: Sequence[Tensor], biases: Sequence[Tensor], slope: float) -> Tensor:
    """The flat parameters of the network that computes a decoder but for its last biases.

    weights: [O_i, I_i]; biases: [O_i]; slope: of the leaky ReLU. Differentiable in all of them.
    """
    width, last = network_width(weights), len(weights) - 1
    first = torch.cat([weights[0], biases[0][:, None]], dim=1)
    matrices = [_grown(_pairs(first, last > 1), width, _padded(first.shape[1]))]
    for index in range(1, last):
        weight, bias = weights[index], biases[index]
        inner = torch.cat([weight, -slope * weight, bias[:, None]], dim=1)
        matrices.append(_grown(_pairs(inner, index < last), width, width))
    end = torch.cat([weights[last], -slope * weights[last]], dim=1)
    matrices.append(_grown(end, _padded(len(end)), width))
    return torch.cat([matrix.flatten() for matrix in matrices])


def _pairs(rows: Tensor, with_one: bool) -> Tensor:
    """Rows of the positive parts, of the negative parts, and one that hands on the last input."""
    if not with_one:
        return torch.cat([rows, -rows])
    one = torch.zeros_like(rows[:1])
    one[:, -1] = 1
    return torch.cat([rows, -rows, one])


def _grown(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros below and to the right."""
    grown = matrix.new_zeros(rows, columns)
    grown[: matrix.shape[0], : matrix.shape[1]] = matrix
    return grown


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def decode_tinycudann(
    features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], slope: float
) -> tuple[Tensor, Tensor]:
    """`decode` by tiny-cuda-nn: arguments, results and errors are those of `ops.decode`.

    Half precision inside: features, weights and hidden units are rounded to 11 bits and sums to as
    many, so outputs are within about (I + H) 2^-11 of sum |w| |h|, typically 2e-3 of the largest.
    First derivatives only; the package refuses second ones.
    Raises RuntimeError where it cannot run: not installed, no CUDA tensor, layers too wide.
    """
    check_decode(features, weights, biases, slope)
    if reason := why_not_tinycudann() or why_not_layers(weights):
        raise RuntimeError(f"tinycudann: {reason}; or --set decoder.engine=native")
    if features.device.type != DEVICE:
        raise RuntimeError(
            f"tinycudann: it computes on {DEVICE} only, and the features are on {features.device}; "
            "or --set decoder.engine=native"
        )
    flat = features.reshape(-1, features.shape[-1])
    inputs = torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
    parameters = pack(weights, biases, slope)
    outputs = len(weights[-1])
    network = _network(inputs.shape[1], outputs, network_width(weights), len(weights) - 1)
    if network.params.numel() != parameters.numel():
        raise RuntimeError(
            f"tinycudann: this version keeps {network.params.numel()} parameters where its "
            f"documented layout has {parameters.numel()}; use --set decoder.engine=native"
        )
    found = torch.func.functional_call(network, {"params": parameters.float()}, (inputs.float(),))
    result = found[:, :outputs].to(features.dtype) + biases[-1]
    shape = features.shape[:-1]
    rest, last = result.split([outputs - 1, 1], dim=1)
    return rest.reshape(*shape, outputs - 1), last.reshape(shape)


@functools.lru_cache(maxsize=16)
def _network(inputs: int, outputs: int, width: int, hidden_layers: int) -> Any:
    """A FullyFusedMLP whose own parameters are never used."""
    module: Any = _found().module
    config = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": hidden_layers,
    }
    return module.Network(n_input_dims=inputs, n_output_dims=outputs, network_config=config)
