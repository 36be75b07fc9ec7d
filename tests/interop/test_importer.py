"""Snapshots of the format, with every kind of generator: imported, they render the same bits."""

from __future__ import annotations

import copy
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch

from epigraf.config import Config
from epigraf.errors import CheckpointError
from epigraf.interop.importer import import_model
from epigraf.interop.official import config_from_official
from epigraf.models.generator import Generator, View
from epigraf.models.loading import export_model, load, read_snapshot
from epigraf.rendering.draws import RandomDraws
from tests.interop.released import official_tensors, snapshot, write
from tests.parity.__main__ import check_case
from tests.parity.case import load_case
from tests.parity.report import Report

GOLDEN = Path(__file__).parents[1] / "golden"
SPHERE = {"bg_model": {"type": "sphere", "num_steps": 3, "cmax": 8}}
VIEW = {"tri_plane": {"has_view_cond": True, "posenc_period_len": 6, "mlp": {"n_layers": 3}}}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # name: (generator section, dataset section, labels)
    "plain": ({}, {}, 0),
    "sphere": (SPHERE, {"white_back": True}, 0),
    "plane": ({"bg_model": {"type": "plane"}}, {}, 0),
    "gpc": ({"camera_cond": True, "camera_cond_drop_p": 0.5}, {}, 0),
    "labels": ({}, {"c_dim": 5}, 5),
    "everything": ({**SPHERE, "camera_cond": True}, {"c_dim": 3, "last_back": True}, 3),
    "relu": ({"clamp_mode": "relu", "density_shift": 0.3}, {}, 0),
    "view": (VIEW, {}, 0),
    "size": ({"tri_plane": {"res": 32, "feat_dim": 3}, "w_dim": 12, "map_depth": 3, "fmaps": 0.5,
              "cmax": 6}, {"resolution": 64}, 0),
    "no noise": ({"use_noise": False}, {}, 0),
}  # fmt: skip


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(base)
    for key, value in change.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if nested else value
    return out


def experiment(generator: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """A whole tree of the release, small."""
    tree = json.loads((GOLDEN / "snapshot-small.json").read_text(encoding="utf-8"))["config"]
    small = {
        "cmax": 8, "w_dim": 8, "num_ray_steps": 4,
        "tri_plane": {"res": 16, "feat_dim": 4, "mlp": {"hid_dim": 8}},
    }  # fmt: skip
    change = {
        "model": {"generator": merged(small, generator)},
        "dataset": merged({"resolution": 16, "name": "ffhq_${dataset.resolution}_posed"}, dataset),
        "training": {"patch": {"resolution": 8}, "batch_gpu": 3},
    }
    return merged(tree, change)


def roughened(tree: dict[str, Any], labels: int, z_dim: int = 5) -> Generator:
    """A generator in which no tensor is at its initial value."""
    torch.manual_seed(0)
    resolved = merged(tree, {"training": {"batch_gpu": None}})
    generator = Generator(config_from_official(resolved, z_dim=z_dim, c_dim=labels)).eval()
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if not name.endswith("fourier_coefs"):
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
    return generator


def picture(generator: Generator, labels: int) -> torch.Tensor:
    torch.manual_seed(1)
    z, c = torch.randn(2, generator.z_dim), torch.eye(2, labels)
    angles = torch.tensor([[0.3, 1.3, 0.0], [-0.2, 1.7, 0.0]])
    with torch.no_grad():
        return generator(
            z, c, angles, view=View(resolution=8), truncation_psi=0.8, draws=RandomDraws(3)
        ).image


@pytest.mark.parametrize("name", VARIANTS)
def test_an_imported_generator_renders_the_same_bits(tmp_path: Path, name: str) -> None:
    changes, dataset, labels = VARIANTS[name]
    tree = experiment(changes, dataset)
    source = roughened(tree, labels)
    path = write(tmp_path / "a.pkl", snapshot(source, tree))
    imported = import_model(path, tmp_path / "a.safetensors")
    assert imported.weights.unmapped == imported.weights.filled == []
    assert imported.kimg == 25_000
    loaded = load(tmp_path / "a.safetensors")
    assert torch.equal(picture(loaded.generator, labels), picture(source, labels))
    assert loaded.config.model == source.cfg.model
    assert loaded.config.dataset.name == f"ffhq_{loaded.config.dataset.resolution}_posed"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_old_releases_get_the_defaults(tmp_path: Path, protocol: int) -> None:
    """omegaconf 2.0, older protocols, no keys that came later, sizes in the constructor only."""
    tree = experiment({}, {})
    source = roughened(tree, 0)
    g = tree["model"]["generator"]
    for key in ("density_shift", "bg_model", "clamp_mode", "use_noise", "map_depth"):
        del g[key]
    del g["tri_plane"]["posenc_period_len"], g["tri_plane"]["has_view_cond"]
    path = write(tmp_path / "a.pkl", snapshot(source, tree, old=True, protocol=protocol))
    import_model(path, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert loaded.config.model.generator == source.cfg.model.generator
    assert torch.equal(picture(loaded.generator, 0), picture(source, 0))


def test_the_official_snapshot_gives_its_pictures() -> None:
    lines: list[str] = []
    report = Report(lines.append)
    check_case(load_case(GOLDEN / "snapshot-small.json"), report)
    assert report.failed == 0, "\n".join(lines)
    assert report.passed == 77


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The real snapshot, unpacked."""
    packed = (GOLDEN / "snapshot-small.pkl.xz").read_bytes()
    return write(tmp_path / "network-snapshot-000123.pkl", lzma.decompress(packed))


def test_a_model_knows_where_it_comes_from(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    weights = import_model(official, out).weights
    assert len(weights.constants) == 11
    source = load(out).source
    assert source is not None
    assert (source["file"], source["kimg"]) == ("network-snapshot-000123.pkl", 123.456)
    assert (source["release"], source["network"]) == ("epigraf", "G_ema")
    assert len(source["sha256"]) == 64
    again = export_model(out, tmp_path / "b.safetensors")
    assert load(again).source == source
    assert read_snapshot(again).config.dataset.path is None


def test_the_live_network_can_be_taken(official: Path, tmp_path: Path) -> None:
    import_model(official, tmp_path / "a.safetensors", "G")
    assert not load(tmp_path / "a.safetensors").generator.mapping.w_avg.any()  # zeros in the file


def test_overrides_change_the_configuration(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    import_model(official, out, overrides=["model.generator.test_ray_steps=20"])
    assert load(out).config.model.generator.test_ray_steps == 20
    with pytest.raises(CheckpointError, match="unknown key"):
        import_model(official, out, overrides=["model.generator.nonsense=1"])


def changed(tmp_path: Path, change: Any) -> Path:
    """A snapshot whose tensors, by official name, were changed."""
    tree = experiment({}, {})
    source = roughened(tree, 0)
    tensors = official_tensors(source)
    change(tensors)
    return write(tmp_path / "a.pkl", snapshot(source, tree, tensors=tensors))


def test_tensors_that_have_no_place_are_listed(tmp_path: Path) -> None:
    def add(tensors: dict[str, Any]) -> None:
        tensors["synthesis.tri_plane_decoder.b16.extra.weight"] = torch.zeros(2)
        tensors["superres.weight"] = torch.zeros(1)

    path = changed(tmp_path, add)
    weights = import_model(path, tmp_path / "a.safetensors").weights
    expected = ["superres.weight", "synthesis.tri_plane_decoder.b16.extra.weight"]
    assert sorted(weights.unmapped) == expected


def test_what_the_configuration_determines_is_filled_in(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda tensors: tensors.pop("mapping.mean_camera_pose"))
    weights = import_model(path, tmp_path / "a.safetensors").weights
    assert weights.filled == ["mapping.mean_camera_pose"]
    load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mapping.fc0.bias"), r"lacks 1 tensors of this network: mapping\.fc0\.b"),
        (
            lambda t: t.update({"mapping.fc0.bias": torch.zeros(9)}),
            r"mapping\.fc0\.bias must have shape \[8\] under its configuration, got \[9\]",
        ),
    ],
)
def test_a_network_must_fit_its_configuration(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_model(changed(tmp_path, change), tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"backbone": "stylegan3-r"}, r"a\.pkl: official config: .*stylegan3-r"),
        ({"novelty": 3}, "unknown key"),
        ({"map_depth": 10**9}, "more layers than the"),
        ({"tri_plane": {"res": 2**30}}, "makes no network"),
        ({"cbase": "${model.generator.cbase}"}, "go round"),
        ({"cmax": "${env.cmax}"}, "model.generator.cmax"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, generator: dict[str, Any], message: str) -> None:
    source = roughened(experiment({}, {}), 0)
    tree = experiment(generator, {})
    path = write(tmp_path / "a.pkl", snapshot(source, tree))
    with pytest.raises(CheckpointError, match=message):
        import_model(path, tmp_path / "a.safetensors")


def test_a_missing_network_names_those_there(official: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no network 'X' \(networks: G, D, G_ema, augment"):
        import_model(official, tmp_path / "a.safetensors", "X")


def test_imported_configurations_are_ours(official: Path, tmp_path: Path) -> None:
    import_model(official, tmp_path / "a.safetensors")
    cfg = load(tmp_path / "a.safetensors").config
    assert Config.from_dict(cfg.to_dict()) == cfg
    assert cfg.training.patch.min_scale_trg == 0.5


def test_errors_never_carry_control_characters(tmp_path: Path) -> None:
    """A hostile name must not reach the terminal as an escape sequence."""
    source = roughened(experiment({}, {}), 0)
    tree = experiment({"backbone": "\x1b[2J\n" * 1000}, {})
    path = write(tmp_path / "a.pkl", snapshot(source, tree))
    with pytest.raises(CheckpointError) as caught:
        import_model(path, tmp_path / "a.safetensors")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
