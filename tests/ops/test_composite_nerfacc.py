"""composite against an independent implementation: nerfacc's batched volume rendering.

nerfacc (Li et al. 2023) has no 1e-10 in its transmittance, so the two agree to float64 rounding
plus S * 1e-10.
"""

from __future__ import annotations

import warnings

import pytest
import torch

from epigraf.ops import composite

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nerfacc speaks of a missing CUDA toolkit when imported
    nerfacc = pytest.importorskip("nerfacc")


@pytest.mark.parametrize("samples", [1, 2, 33])
def test_weights_colour_and_depth_agree_with_nerfacc(samples: int):
    generator = torch.Generator().manual_seed(samples)
    t = torch.rand(5, samples + 1, generator=generator, dtype=torch.float64).sort(-1).values + 0.5
    sigma = 20 * torch.rand(5, samples, generator=generator, dtype=torch.float64)
    colors = torch.rand(5, samples, 3, generator=generator, dtype=torch.float64)
    ours = composite(
        colors[None], sigma[None], t[None, :, :-1].contiguous(), (t[:, -1] - t[:, -2])[None]
    )
    weights, transmittance, _ = nerfacc.render_weight_from_density(t[:, :-1], t[:, 1:], sigma)
    torch.testing.assert_close(ours.weights[0], weights, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours.transmittance[0], transmittance[:, -1], rtol=0, atol=1e-8)
    seen = nerfacc.accumulate_along_rays(weights, colors)
    torch.testing.assert_close(ours.features[0], seen, rtol=0, atol=1e-8)
    depth = nerfacc.accumulate_along_rays(weights, t[:, :-1, None])[:, 0]
    torch.testing.assert_close(ours.depth[0], depth, rtol=0, atol=1e-8)
