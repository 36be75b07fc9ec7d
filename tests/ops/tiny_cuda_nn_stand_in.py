"""A stand-in for tiny-cuda-nn's torch module, from its documentation: FullyFusedMLP on a CPU.

One flat float32 parameter vector: the matrices of all layers, row-major [out, in], concatenated;
the inputs padded to a multiple of 16 (with ones, as its identity encoding does), the last outputs
likewise; no biases; everything in half precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        network_config: dict[str, Any],
        seed: int = 1337,
    ) -> None:
        super().__init__()
        assert network_config["otype"] == "FullyFusedMLP"
        assert network_config["activation"] == "ReLU"
        assert network_config["output_activation"] == "None"
        width = network_config["n_neurons"]
        assert width in (16, 32, 64, 128)
        self.outputs, self.inputs = n_output_dims, n_input_dims
        padded_in, padded_out = (-(-n // 16) * 16 for n in (n_input_dims, n_output_dims))
        hidden = network_config["n_hidden_layers"]
        self.shapes = [(width, padded_in), *[(width, width)] * (hidden - 1), (padded_out, width)]
        count = sum(rows * columns for rows, columns in self.shapes)
        self.params = nn.Parameter(
            torch.randn(count, generator=torch.Generator().manual_seed(seed))
        )

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        padding = x.new_ones(len(x), self.shapes[0][1] - x.shape[1])
        h = torch.cat([x, padding], dim=1).half()
        parts = self.params.half().split([rows * columns for rows, columns in self.shapes])
        for index, (part, shape) in enumerate(zip(parts, self.shapes, strict=True)):
            h = h @ part.view(shape).T
            h = h.relu() if index < len(parts) - 1 else h
        return h[:, : self.outputs]
