"""From a snapshot of a release to a model file: weights renamed, the configuration rebuilt.

Every tensor of the network is mapped, or listed: constants that are code here, what has no place
here, and what the file lacks and the configuration determines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epigraf.config import Config
from epigraf.errors import CheckpointError, ConfigError
from epigraf.interop import eg3d
from epigraf.interop.exchange import read_exchange
from epigraf.interop.experiment import experiment
from epigraf.interop.inert import Module, PickleError, StoredTensor
from epigraf.interop.official import (
    DETERMINED,
    config_from_official,
    generator_name_from_official,
)
from epigraf.interop.release import load_tensors, one_line, open_release, state_dict
from epigraf.interop.weights import Weights
from epigraf.models.generator import Generator
from epigraf.models.loading import write_snapshot

_SECTIONS = ("model", "dataset", "training")


@dataclass(frozen=True)
class Imported:
    """What came of an import: the file, the network's origin and how its tensors fared."""

    path: Path
    kimg: float
    weights: Weights


def import_model(
    path: Path, out: Path, which: str = "G_ema", overrides: Iterable[str] = ()
) -> Imported:
    """Read a snapshot of EpiGRAF or EG3D and write the generator as a model file.

    Args:
        path: the `.pkl`, of which nothing is run, or a `.safetensors` of `export_official`.
        out: the `.safetensors` file to write, atomically.
        which: `G_ema`, the weight average, or `G`.
        overrides: `a.b=c` for the rebuilt configuration.
    Raises:
        CheckpointError: the file is missing, damaged, refused, or of a network that has no place
            here, or an override is wrong.
    """
    if path.suffix == ".safetensors":
        return _import_exchange(path, out, overrides)
    with open_release(path) as release:
        network = release.network(which)
        with _naming(path):
            weights = _weights(network)
            weights.config = weights.config.with_overrides(overrides)
            complete(weights)
        source = {
            "release": weights.release,
            "file": release.path.name,
            "sha256": release.sha256,
            "network": which,
            "kimg": release.images_seen / 1000,
        }
        return _write(out, weights, release.images_seen, source)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about a file's network name the file."""
    try:
        yield
    except PickleError:
        raise
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"import {path}: {one_line(error)}") from None


def _write(out: Path, weights: Weights, images_seen: int, source: dict[str, Any]) -> Imported:
    header = {
        "config": weights.config.with_overrides(["dataset.path=null"]).to_dict(),
        "counters": {"images_seen": images_seen},
        "source": source,
    }
    write_snapshot(out, header, {"G_ema": weights.tensors})
    return Imported(out, images_seen / 1000, weights)


def _import_exchange(path: Path, out: Path, overrides: Iterable[str]) -> Imported:
    with _naming(path):
        exchange = read_exchange(path)
        config = config_from_official(exchange.tree, z_dim=exchange.z_dim, c_dim=exchange.c_dim)
        weights, places = by_official_names(config, exchange.tensors.keys())
        weights.tensors = {ours: exchange.tensors[name] for ours, name in places.items()}
        weights.config = config.with_overrides([*exchange.only_here, *overrides])
        complete(weights)
    source = {
        "release": "epigraf", "file": path.name, "network": "G_ema", "sha256": exchange.sha256,
        "kimg": exchange.images_seen / 1000,
    }  # fmt: skip
    return _write(out, weights, exchange.images_seen, source)


def _weights(network: Module) -> Weights:
    tensors = state_dict(network)
    if eg3d.recognises(tensors):
        return eg3d.weights(network, tensors)
    return _epigraf_weights(network, tensors)


def _epigraf_weights(network: Module, tensors: Mapping[str, StoredTensor]) -> Weights:
    tree = experiment(network.state.get("cfg"), _SECTIONS)
    if not isinstance(tree.get("model"), dict):
        raise ConfigError("this network has no configuration that EpiGRAF or EG3D would write")
    weights, places = by_official_names(_config(tree, network), tensors)
    weights.tensors = load_tensors({ours: tensors[name] for ours, name in places.items()})
    return weights


def by_official_names(config: Config, names: Collection[str]) -> tuple[Weights, dict[str, str]]:
    """What becomes of official tensors of these names, and our name -> the official one.

    Raises:
        CheckpointError: the configuration makes no generator.
    """
    weights = Weights("epigraf", config)
    places = shapes(config, len(names)).keys()
    mapped: dict[str, str] = {}
    for name in names:
        try:
            ours = generator_name_from_official(name)
        except CheckpointError:
            ours = ""
        if ours is None:
            weights.constants.append(name)
        elif ours in places:
            mapped[ours] = name
        else:
            weights.unmapped.append(name)
    return weights, mapped


def shapes(config: Config, tensors: int) -> dict[str, torch.Size]:
    """Names and shapes of the tensors of a configuration's generator, which is not made.

    Args:
        config: as it comes out of a file.
        tensors: how many the file has; a configuration of more layers is refused.
    Raises:
        CheckpointError: no generator can be made of it.
    """
    g = config.model.generator
    if g.map_depth + g.tri_plane.mlp.n_layers + g.bg_model.num_blocks > max(tensors, 8):
        raise CheckpointError(f"its configuration has more layers than the {tensors} tensors")
    try:
        with torch.device("meta"):
            return {name: t.shape for name, t in Generator(config).state_dict().items()}
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        line = str(error).partition("\n")[0]
        raise CheckpointError(f"its configuration makes no network: {line}") from None


def _config(tree: dict[str, Any], network: Module) -> Config:
    """The configuration of a network, with what old releases passed to its constructor alone.

    The batch of a pass belongs to the machine that trained, and is left out.
    """
    generator = tree["model"].setdefault("generator", {})
    given = network.state.get("_init_kwargs")
    given = given if isinstance(given, dict) else {}
    fallbacks = {"w_dim": "w_dim", "cbase": "channel_base", "cmax": "channel_max"}
    if isinstance(generator, dict):
        for key, name in fallbacks.items():
            if key not in generator and isinstance(given.get(name), int):
                generator[key] = given[name]
                generator["fmaps"] = 1.0 if key == "cbase" else generator.get("fmaps", 1.0)
    if isinstance(tree.get("training"), dict):
        tree["training"]["batch_gpu"] = None
    z_dim, c_dim = (_number(network, given, name) for name in ("z_dim", "c_dim"))
    return config_from_official(tree, z_dim=z_dim, c_dim=c_dim)


def _number(network: Module, given: dict[Any, Any], name: str) -> int | None:
    value = network.state.get(name, given.get(name))
    return value if type(value) is int else None


def complete(weights: Weights) -> None:
    """Fill in what the configuration determines; anything else must be there and fit.

    Raises:
        CheckpointError: a tensor of the network is missing or of another shape.
    """
    own = shapes(weights.config, len(weights.tensors))
    lacking = own.keys() - weights.tensors.keys()
    weights.filled = sorted(name for name in lacking if DETERMINED.search(name))
    missing = sorted(lacking - set(weights.filled))
    if missing:
        raise CheckpointError(
            f"the file lacks {len(missing)} tensors of this network: "
            f"{', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}"
        )
    for name, found in weights.tensors.items():
        if name in own and found.shape != own[name]:
            raise CheckpointError(
                f"{name} must have shape {list(own[name])} under its configuration, "
                f"got {list(found.shape)}"
            )
    if weights.filled:
        state = Generator(weights.config).state_dict()
        weights.tensors |= {name: state[name] for name in weights.filled}
    weights.tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
