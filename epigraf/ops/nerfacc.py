"""nerfacc (Li et al. 2023, arXiv:2305.04966) as an engine; the only file that imports it.

nerfacc's batched volume rendering is plain torch, so it runs on any device; its packed functions
and its traversal are CUDA code that it compiles on first use, which nothing here triggers.
Legend: B batch, R rays, S samples per ray, C channels.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from epigraf.ops.composite import Composite, check_composite
from epigraf.optional import Optional, import_optional

INSTALL = "pip install nerfacc"


@functools.cache
def _found() -> Optional:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of a missing CUDA toolkit when imported
        return import_optional("nerfacc", ("render_weight_from_density", "accumulate_along_rays"))


def why_not_nerfacc() -> str:
    """Why nerfacc cannot composite; empty where it can."""
    return _found().reason


def nerfacc_module() -> ModuleType:
    """The package. Raises RuntimeError, with the command that installs it, where it is missing."""
    found = _found()
    if found.module is None:
        raise RuntimeError(f"nerfacc: {found.reason}; install it with `{INSTALL}`")
    return found.module


def why_no_traversal() -> str:
    """Why nerfacc's own traversal (CUDA) cannot be used; empty where it is compiled already.

    It is never compiled here: nerfacc compiles it silently, for minutes, on first use.
    """
    if reason := why_not_nerfacc():
        return reason
    if not torch.cuda.is_available():
        return "nerfacc's traversal is CUDA code, and torch sees no CUDA device"
    if importlib.util.find_spec("nerfacc.csrc") is not None or _compiled_before():
        return ""
    return (
        "nerfacc's CUDA extension is not compiled (its sources do not compile against the C++20 "
        "of current torch), and epigraf never starts a compilation by itself"
    )


def _compiled_before() -> bool:
    """Whether an earlier compilation by nerfacc itself lies in torch's folder of extensions."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(root) if root else Path.home() / ".cache" / "torch_extensions"
    return any(folder.glob("**/nerfacc_cuda/nerfacc_cuda.so"))


def composite_nerfacc(
    colors: Tensor,
    densities: Tensor,
    t: Tensor,
    last_delta: float | Tensor,
    *,
    last_back: bool = False,
    early_stop_eps: float = 0.0,
) -> Composite:
    """`composite` by nerfacc: arguments, results and errors are those of `ops.composite`.

    T_k = exp(-sum_{j<k} delta_j sigma_j), without the 1e-10 of (composite 2): weights differ by at
    most S * 1e-10 and rounding. Differentiable at any order. Where a ray stops early,
    `transmittance` is still that in front of the last sample.
    Raises RuntimeError where nerfacc is not installed.
    """
    check_composite(colors, densities, t, last_delta, early_stop_eps)
    nerfacc: Any = nerfacc_module()
    batch, rays = t.shape[:2]
    if t.numel() == 0:
        zero = t.new_zeros(batch, rays)
        features = colors.new_zeros(batch, rays, colors.shape[-1])
        return Composite(features, zero, t.new_zeros(t.shape), torch.ones_like(zero), zero)
    last = last_delta if isinstance(last_delta, Tensor) else t.new_full(t.shape[:2], last_delta)
    starts = t.flatten(0, 1)  # [N, S], N = B R: nerfacc knows one scene
    ends = torch.cat([starts[:, 1:], starts[:, -1:] + last.reshape(-1, 1)], dim=-1)
    weights, light, _ = nerfacc.render_weight_from_density(starts, ends, densities.flatten(0, 1))
    if early_stop_eps > 0 and not (torch.is_grad_enabled() and weights.requires_grad):
        weights = torch.where(light < early_stop_eps, 0, weights)
    opacity = weights.sum(-1)
    if last_back:
        weights = torch.cat([weights[:, :-1], weights[:, -1:] + (1 - opacity)[:, None]], dim=-1)
    features = nerfacc.accumulate_along_rays(weights, colors.flatten(0, 1))
    depth = nerfacc.accumulate_along_rays(weights, starts[..., None])
    return Composite(
        features.view(batch, rays, -1),
        depth.view(batch, rays),
        weights.view(t.shape),
        light[:, -1].view(batch, rays),
        opacity.view(batch, rays),
    )
