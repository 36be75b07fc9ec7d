"""`epigraf fit`: a model that other commands read, and one line for errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from epigraf.models.loading import load, read_snapshot
from epigraf.training.fit import Fit
from tests.training.analytic import write_ball

SMALL = ["--rays", "64", "--set", "model.generator.tri_plane.res=8"]
SMALL += ["--set", "model.generator.num_ray_steps=8", "--set", "model.generator.test_ray_steps=8"]


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ball(tmp_path_factory.mktemp("balls") / "ball", 6, 16)


def test_a_fit_is_a_model_for_the_other_commands(
    epigraf: Callable[..., Result], ball: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "ball.safetensors"
    result = epigraf("fit", ball, out, "--steps", 3, "--held-out", 3, *SMALL)
    assert result.exit_code == 0, result.output
    assert "4 views of 16x16, 2 held out, with opacities; from step 0" in result.output
    assert "3 steps, PSNR" in result.output
    result = epigraf("fit", ball, out, "--steps", 5, "--resume", *SMALL)
    assert "from step 3" in result.output
    assert read_snapshot(out).header["counters"]["fit_steps"] == 5
    assert load(out).generator.num_ws == 1
    for arguments in (
        ["info", out],
        ["sample", out, "--seeds", "0", "--views", "2", "--out", tmp_path / "turn.png"],
        ["export", out, "--out", tmp_path / "small.safetensors"],
        ["mesh", out, "--resolution", "12", "--level", "0", "--out", tmp_path / "m.ply"],
    ):
        result = epigraf(*arguments)
        assert result.exit_code == 0, result.output
    assert "fit_adam" not in read_snapshot(tmp_path / "small.safetensors").header["checksums"]


def test_ctrl_c_keeps_the_field_so_far(
    epigraf: Callable[..., Result], ball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Fit.step

    def interrupted(self: Fit, share: float) -> float:
        if self.steps == 2:
            raise KeyboardInterrupt
        return step(self, share)

    monkeypatch.setattr(Fit, "step", interrupted)
    out = tmp_path / "ball.safetensors"
    result = epigraf("fit", ball, out, "--steps", 50, *SMALL)
    assert result.exit_code == 130
    assert "2 steps; --resume goes on" in result.output
    assert read_snapshot(out).header["counters"]["fit_steps"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--background", "pink"], "cannot read 'pink'; write white, black or R,G,B"),
        (["--background", "1,2,256"], "cannot read '1,2,256'"),
        (["--held-out", "1"], "leaves none of the 6 views"),
        (["--object", "cat"], "no object 'cat'"),
        (["--resolution", "64"], "smaller than the requested 64"),
        (["--set", "model.generator.tri_plane.fixed=false"], "tri_plane.fixed=true"),
        (["--config", "plants64"], "tri_plane.fixed=true"),
        (["--resume"], "no such file"),
        (["--lr", "nan"], "--lr"),
        (["--device", "cuda:9"], "--device cuda:9: choose from"),
    ],
)
def test_errors_are_one_line(
    epigraf: Callable[..., Result], ball: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = epigraf("fit", ball, tmp_path / "x.safetensors", "--steps", "1", *arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "x.safetensors").exists()


def test_wrong_names(epigraf: Callable[..., Result], ball: Path, tmp_path: Path) -> None:
    assert "must end in .safetensors" in epigraf("fit", ball, tmp_path / "x.pt").output
    assert "no such file or folder" in epigraf("fit", tmp_path / "no", "x.safetensors").output


def test_a_gan_cannot_be_trained_on_fixed_planes(
    epigraf: Callable[..., Result], ball: Path, tmp_path: Path
) -> None:
    result = epigraf("train", "fit", "--data", ball, "--out", tmp_path, "--dry-run",
                     "--set", "dataset.resolution=16")  # fmt: skip
    assert result.exit_code == 1
    assert "is for `epigraf fit`; a GAN needs a network" in result.output
