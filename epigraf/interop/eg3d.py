"""EG3D generators as ours: the tri-plane backbone and the field; no super-resolution.

What a pickle of EG3D holds (Chan et al. 2022, and the release's state dicts): a StyleGAN2 backbone
under `backbone.mapping` and `backbone.synthesis`, the decoder `decoder.net.{0,2}` with softplus
between and the density first, and `rendering_kwargs`. Its conventions are settings here, but for
three: planes are read without aligned corners, which is a cube smaller by (R - 1) / R; the mapping
network sees a camera, which is fixed at the front; and of the features the first three, the colours
of EG3D's own small picture, are kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from epigraf.config import Config
from epigraf.errors import ConfigError
from epigraf.interop.inert import Module, PickleError, StoredTensor
from epigraf.interop.official import is_constant
from epigraf.interop.release import attributes, load_tensors
from epigraf.interop.weights import Weights
from epigraf.models.layers import normalize_2nd_moment

_SYNTHESIS, _MAPPING, _NET = "backbone.synthesis.", "backbone.mapping.", "decoder.net."
_EMBED = (_MAPPING + "embed.weight", _MAPPING + "embed.bias")
_CAMERA_DIM = 25  # camera-to-world [4, 4] and intrinsics [3, 3]
_FOCAL = {1.7: 1.025390625}  # by the radius of the cameras: ShapeNet cars; in widths of a picture
_FACES = 4.2647  # FFHQ and AFHQ
_LEGACY_AXES = [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
                [[0, 0, 1], [1, 0, 0], [0, 1, 0]]]  # fmt: skip
_LATER_AXES = [*_LEGACY_AXES[:2], [[0, 0, 1], [0, 1, 0], [1, 0, 0]]]
_PROJECTIONS = {"eg3d_legacy": _LEGACY_AXES, "eg3d": _LATER_AXES}


def recognises(tensors: Mapping[str, Any]) -> bool:
    """Whether the names are those of an EG3D generator."""
    return _SYNTHESIS + "b4.const" in tensors and _NET + "0.weight" in tensors


def weights(network: Module, tensors: Mapping[str, StoredTensor]) -> Weights:
    """An EG3D generator in our terms.

    Raises:
        ConfigError: a setting that cannot be honoured. PickleError: not what EG3D writes.
    """
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith((_SYNTHESIS, _MAPPING, _NET)) and not is_constant(name)
    }
    loaded = {name: tensor.float() for name, tensor in load_tensors(kept).items()}
    options = network.state.get("rendering_kwargs")
    if not isinstance(options, dict):
        raise PickleError("an EG3D generator without rendering_kwargs")
    _check_layers(loaded)
    config = _config(network, loaded, options)
    found = Weights("eg3d", config)
    found.constants = [name for name in tensors if is_constant(name)]
    found.unmapped = [name for name in tensors if name not in loaded and not is_constant(name)]
    found.tensors = _backbone(loaded) | _decoder(loaded, _option(options, "decoder_lr_mul", 1.0))
    found.tensors |= _mapping(loaded, frontal_camera(options), found)
    found.notes.append(
        "the picture is that of EG3D's neural field (colours without super-resolution), and the "
        "planes' cube stands for planes without aligned corners"
    )
    return found


def frontal_camera(options: Mapping[Any, Any]) -> Tensor:
    """The conditioning [25] of EG3D's frontal camera: on +z, looking along -z, y down."""
    radius, scale = _option(options, "avg_camera_radius", 2.7), _option(options, "c_scale", 1.0)
    focal = focal_length(radius)
    pose = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, radius, 0, 0, 0, 1]
    lens = [focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1]
    camera = torch.tensor([*pose, *lens], dtype=torch.float32)
    return camera * (0.0 if options.get("c_gen_conditioning_zero") else scale)


def focal_length(radius: float) -> float:
    """Focal length in widths of the picture of the data sets that EG3D was released for."""
    return _FOCAL.get(radius, _FACES)


def _config(network: Module, loaded: Mapping[str, Tensor], options: Mapping[Any, Any]) -> Config:
    """Our configuration of an EG3D generator."""
    if options.get("disparity_space_sampling"):
        raise ConfigError("eg3d: disparity_space_sampling is not supported")
    if options.get("clamp_mode", "softplus") != "softplus":
        raise ConfigError(f"eg3d: clamp_mode={options.get('clamp_mode')!r} is not softplus")
    side = int(_option(network.state, "neural_rendering_resolution", 64))
    if side < 4:
        raise ConfigError(f"eg3d: neural_rendering_resolution {side} is too small")
    features, resolution = _planes_of(loaded)
    plane = {
        "res": resolution,
        "feat_dim": features,
        "projection": _projection(network),
        "mlp": {
            "hid_dim": loaded[_NET + "0.weight"].shape[0],
            "hidden_activation": "softplus",
            "color_activation": "sigmoid",
        },
    }
    generator = {
        **_sizes(loaded),
        "num_ray_steps": options.get("depth_resolution", 48),
        "num_fine_steps": options.get("depth_resolution_importance", 48),
        "density_shift": -1.0,
        "quadrature": "midpoints",
        "tri_plane": plane,
    }
    return Config.from_dict(
        {
            "name": "eg3d",
            "model": {"generator": generator},
            "dataset": _dataset(options, side, resolution),
            "training": {"patch": {"resolution": min(side, 64)}},
        }
    )


def _sizes(loaded: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of mapping network and backbone; channels are min(cbase / resolution, cmax)."""
    fc0 = loaded[_MAPPING + "fc0.weight"]
    embedded = len(loaded[_EMBED[1]]) if _EMBED[1] in loaded else 0
    depth = sum(re.fullmatch(r"backbone\.mapping\.fc\d+\.weight", n) is not None for n in loaded)
    base = 0
    for name, tensor in loaded.items():
        match = re.fullmatch(r"backbone\.synthesis\.b(\d+)\.conv1\.weight", name)
        if match and tensor.ndim == 4:
            base = max(base, tensor.shape[0] * int(match[1]))
    return {
        "z_dim": fc0.shape[1] - embedded,
        "w_dim": fc0.shape[0],
        "map_depth": depth,
        "cbase": base,
        "cmax": loaded[_SYNTHESIS + "b4.const"].shape[0],
        "use_noise": _SYNTHESIS + "b4.conv1.noise_strength" in loaded,
    }


def _dataset(options: Mapping[Any, Any], side: int, resolution: int) -> dict[str, Any]:
    """Cameras and cube; `side` of the picture, `resolution` of the planes."""
    edge, radius = _option(options, "box_warp", 1.0), _option(options, "avg_camera_radius", 2.7)
    near, far = _segment(options, radius, edge)
    half = 0.5 / focal_length(radius) * (1 - 1 / side)  # to the centre of the last pixel
    white = bool(options.get("white_back"))
    return {
        "name": "eg3d",
        "resolution": side,
        "cube_scale": edge / 2 * (resolution - 1) / resolution,
        "white_back": white,
        "black_back": not white,
        "camera": {
            "fov": math.degrees(2 * math.atan(half)),
            "ray_start": near,
            "ray_end": far,
            "radius": radius,
            "dist": "gaussian",
            "horizontal_stddev": 0.3,
            "vertical_stddev": 0.155,
        },
    }


def _check_layers(loaded: Mapping[str, Tensor]) -> None:
    """That the layers which are taken apart have their dimensions."""
    needed = {
        _SYNTHESIS + "b4.const": 3,
        _MAPPING + "fc0.weight": 2,
        _MAPPING + "fc0.bias": 1,
        **{f"{_NET}{i}.{part}": n for i in (0, 2) for part, n in (("weight", 2), ("bias", 1))},
    }
    if any(name in loaded for name in _EMBED):
        needed |= {_EMBED[0]: 2, _EMBED[1]: 1}
    for name, dimensions in needed.items():
        if name not in loaded or loaded[name].ndim != dimensions or 0 in loaded[name].shape:
            raise PickleError(f"an EG3D generator whose {name} has not {dimensions} dimensions")
    if any(len(loaded[f"{_NET}2.{part}"]) < 4 for part in ("weight", "bias")):
        raise PickleError("an EG3D decoder without three features")


def _option(options: Mapping[Any, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"eg3d: rendering_kwargs.{name} is not a number")
    return float(value)


def _segment(options: Mapping[Any, Any], radius: float, edge: float) -> tuple[float, float]:
    """Near and far; `auto` is where rays can meet the cube."""
    if "auto" in (options.get("ray_start"), options.get("ray_end")):
        reach = edge / 2 * math.sqrt(3)
        return max(radius - reach, 0.01), radius + reach
    return _option(options, "ray_start", 2.25), _option(options, "ray_end", 3.3)


def _planes_of(loaded: Mapping[str, Tensor]) -> tuple[int, int]:
    """Features and resolution of the planes."""
    sides = [int(m[1]) for n in loaded if (m := re.match(r"backbone\.synthesis\.b(\d+)\.", n))]
    torgb = loaded.get(f"{_SYNTHESIS}b{max(sides)}.torgb.weight")
    if torgb is None or torgb.ndim != 4 or torgb.shape[0] % 3:
        raise PickleError("an EG3D backbone that does not end in three planes")
    return torgb.shape[0] // 3, max(sides)


def _projection(network: Module) -> str:
    """Which of EG3D's two sets of planes the pickled renderer has; without one, the released."""
    modules = network.state.get("_modules")
    renderer = modules.get("renderer") if isinstance(modules, dict) else None
    axes = None if renderer is None else attributes(renderer).get("plane_axes")
    if not isinstance(axes, StoredTensor):
        return "eg3d_legacy"
    known = [name for name, planes in _PROJECTIONS.items() if axes.load().tolist() == planes]
    if not known:
        raise ConfigError("eg3d: renderer.plane_axes is not one of EG3D's")
    return known[0]


def _backbone(loaded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "backbone." + name.removeprefix(_SYNTHESIS): tensor
        for name, tensor in loaded.items()
        if name.startswith(_SYNTHESIS)
    }


def _decoder(loaded: Mapping[str, Tensor], multiplier: float) -> dict[str, Tensor]:
    """(density, features) -> (r, g, b, density), the multiplier of the learning rate applied."""
    found = {}
    for ours, theirs in (("0", "0"), ("1", "2")):
        for part in ("weight", "bias"):
            tensor = loaded[f"{_NET}{theirs}.{part}"]
            rows = tensor[[1, 2, 3, 0]] if ours == "1" else tensor
            found[f"decoder.layers.{ours}.{part}"] = rows * multiplier
    return found


def _mapping(loaded: Mapping[str, Tensor], camera: Tensor, found: Weights) -> dict[str, Tensor]:
    """The mapping network under one camera: what that camera adds to fc0 becomes its bias.

    fc0 sees [z, y], y the normalised embedding, and weighs both by m / sqrt(Z + Y); here it sees z
    and weighs it by m / sqrt(Z). The stored bias is used times m as well.
    """
    own = {
        "mapping." + name.removeprefix(_MAPPING): tensor
        for name, tensor in loaded.items()
        if name.startswith(_MAPPING) and name not in _EMBED
    }
    if _EMBED[0] not in loaded:
        return own
    weight, bias = (loaded[name] for name in _EMBED)
    if weight.shape[1] != _CAMERA_DIM:
        raise ConfigError(f"eg3d: the mapping network sees {weight.shape[1]} numbers, not a camera")
    if len(weight) != len(bias) or loaded[_MAPPING + "fc0.weight"].shape[1] <= len(bias):
        raise PickleError("an EG3D mapping network whose layers do not fit")
    y = normalize_2nd_moment((weight @ camera / math.sqrt(_CAMERA_DIM) + bias)[None])[0]
    stored = own["mapping.fc0.weight"]
    width = stored.shape[1]
    z_dim = width - len(y)
    own["mapping.fc0.weight"] = stored[:, :z_dim] * math.sqrt(z_dim / width)
    own["mapping.fc0.bias"] = own["mapping.fc0.bias"] + stored[:, z_dim:] @ y / math.sqrt(width)
    found.notes.append(
        "the mapping network is conditioned on EG3D's frontal camera: its embedding is part of "
        "mapping.fc0 now"
    )
    return own
