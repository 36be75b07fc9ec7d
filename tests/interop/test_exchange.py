"""Weights under official names: there and back without a bit of difference."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from epigraf.config import Config
from epigraf.errors import CheckpointError
from epigraf.interop.exchange import FORMAT, export_official, official_tree
from epigraf.interop.importer import import_model
from epigraf.models.generator import Generator
from epigraf.models.loading import load, write_snapshot
from tests.interop.released import official_tensors, snapshot, write
from tests.interop.test_importer import VARIANTS, experiment, roughened

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["everything", "view", "plane", "no noise"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    changes, dataset, labels = VARIANTS[name]
    tree = experiment(changes, dataset)
    source = roughened(tree, labels)
    first, names = tmp_path / "first.safetensors", tmp_path / "names.safetensors"
    import_model(write(tmp_path / "a.pkl", snapshot(source, tree)), first)
    assert export_official(first, names) == []
    weights, expected = load_file(names), official_tensors(source)
    for key, tensor in expected.items():
        if not key.endswith("resample_filter"):
            assert torch.equal(weights[key], tensor)
    again = tmp_path / "again.safetensors"
    assert import_model(names, again).kimg == 25_000
    one, two = load(first), load(again)
    assert one.config.model.generator == two.config.model.generator
    assert one.config.dataset == two.config.dataset
    a, b = one.generator.state_dict(), two.generator.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_official_state_dict_is_complete(tmp_path: Path) -> None:
    """Names, values and constants of the real snapshot."""
    expected = {
        name.removeprefix("G_ema/"): tensor
        for name, tensor in load_file(GOLDEN / "snapshot-small.safetensors").items()
        if name.startswith("G_ema/")
    }
    import_model(_golden(tmp_path), model := tmp_path / "a.safetensors")
    export_official(model, out := tmp_path / "b.safetensors")
    found = load_file(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def _golden(folder: Path) -> Path:
    packed = (GOLDEN / "snapshot-small.pkl.xz").read_bytes()
    return write(folder / "a.pkl", lzma.decompress(packed))


def ours(tmp_path: Path) -> Path:
    """A model with settings that the release does not have."""
    cfg = Config.from_dict(
        {
            "dataset": {"resolution": 16, "object_radius": 0.15},
            "model": {
                "generator": {
                    "z_dim": 4, "w_dim": 4, "cmax": 4, "num_ray_steps": 4, "density_gain": 20.0,
                    "last_interval": "finite",
                    "tri_plane": {"res": 4, "feat_dim": 2, "mlp": {"hid_dim": 4}},
                }
            },
            "training": {"patch": {"resolution": 8}},
        }
    )  # fmt: skip
    path = tmp_path / "ours.safetensors"
    header = {"config": cfg.to_dict(), "counters": {"images_seen": 1500}}
    write_snapshot(path, header, {"G_ema": Generator(cfg).state_dict()})
    return path


def test_settings_of_ours_are_named_and_come_back(tmp_path: Path) -> None:
    model, out = ours(tmp_path), tmp_path / "names.safetensors"
    assert export_official(model, out) == [
        "model.generator.density_gain=20.0", 'model.generator.last_interval="finite"',
        "dataset.object_radius=0.15",
    ]  # fmt: skip
    with safe_open(out, "pt") as file:
        tree = json.loads(file.metadata()[FORMAT])["config"]
    assert "density_gain" not in tree["model"]["generator"]
    import_model(out, again := tmp_path / "again.safetensors")
    assert load(again).config.model.generator == load(model).config.model.generator
    assert load(again).config.dataset == load(model).config.dataset


def test_the_tree_has_official_keys_only() -> None:
    """Those of the real snapshot, and a camera's."""
    real = json.loads((GOLDEN / "snapshot-small.json").read_text(encoding="utf-8"))["config"]
    tree, only_here = official_tree(Config())
    assert only_here == []
    generator = tree["model"]["generator"]
    assert generator.keys() <= real["model"]["generator"].keys()
    assert generator["tri_plane"].keys() <= real["model"]["generator"]["tri_plane"].keys()
    assert generator["tri_plane"]["mlp"].keys() == {"n_layers", "hid_dim"}
    assert tree["dataset"].keys() <= real["dataset"].keys()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "without 'epigraf-official-names' in its metadata"),
        ({FORMAT: "{"}, "its metadata are damaged"),
        ({FORMAT: '{"version": 1}'}, "its metadata are damaged"),
        (
            {FORMAT: json.dumps({"version": 2, "config": {}, "z_dim": 1, "c_dim": 0,
                                 "images_seen": 0, "only_here": []})},
            "written by a newer epigraf",
        ),
    ],
)  # fmt: skip
def test_other_files(tmp_path: Path, metadata: dict[str, str] | None, message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=rf"import .*a\.safetensors: .*{message}"):
        import_model(path, tmp_path / "b.safetensors")


def test_truncated_and_missing(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", b"\x10")
    for name, message in (("a", "truncated"), ("b", "no such file")):
        with pytest.raises(CheckpointError, match=message):
            import_model(tmp_path / f"{name}.safetensors", tmp_path / "out.safetensors")
