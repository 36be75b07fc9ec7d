"""`epigraf export`: the same pictures from a smaller file."""

from __future__ import annotations

import torch

from epigraf.models.loading import find_snapshot, load
from epigraf.rendering.draws import RandomDraws


def test_the_exported_model_renders_the_same(epigraf, model, tmp_path):
    out = tmp_path / "sub" / "small.safetensors"
    assert epigraf("export", model, "--out", out).exit_code == 0
    z, c = torch.randn(2, 8), torch.eye(3)[:2]
    angles = torch.tensor([[0.3, 1.2, 0.0], [-2.0, 1.9, 0.0]])
    with torch.no_grad():
        pictures = [
            load(p).generator(z, c, angles, draws=RandomDraws(1)).image for p in (model, out)
        ]
    assert torch.equal(*pictures)
    assert load(out).kimg == 3.0
    assert find_snapshot(out).config.dataset.path is None


def test_another_ending_is_refused(epigraf, model, tmp_path):
    result = epigraf("export", model, "--out", tmp_path / "model.pkl")
    assert result.exit_code == 1
    assert "must end in .safetensors" in result.output


def test_an_unknown_model_names_the_shipped_ones(epigraf, tmp_path):
    result = epigraf("export", "no-such-model", "--out", tmp_path / "m.safetensors")
    assert result.exit_code == 1
    assert "no such file or folder (shipped models:" in result.output
