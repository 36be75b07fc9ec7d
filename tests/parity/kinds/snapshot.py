"""Official snapshots: a pickle through the importer and the model file, to tensors and pictures."""

from __future__ import annotations

import lzma
import tempfile
from pathlib import Path

import torch

from epigraf.interop.importer import import_model
from epigraf.interop.official import generator_state_from_official
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, View
from epigraf.models.loading import load
from epigraf.rendering.draws import RandomDraws
from tests.parity.case import Case
from tests.parity.kinds.generator import IMAGE_RTOL
from tests.parity.report import Report


def check(case: Case, report: Report) -> None:
    generator = _imported(case, report)
    if "in/z" not in case.tensors:
        return
    z, c, angles = (case.tensors[f"in/{name}"] for name in ("z", "c", "camera_angles"))
    noise = NoiseMode(case.info.get("noise_mode", "const"))
    with torch.no_grad():
        ws = generator.mapping(
            z, c, case.tensors.get("in/camera_angles_cond"),
            truncation_psi=case.info.get("truncation_psi", 1),
        )  # fmt: skip
        report.compare("mid/ws", ws, case.tensors["mid/ws"], rtol=1e-5)
        draws = case.draws()
        for name, det, source in (
            ("img_det", True, RandomDraws(0)),
            ("img_stoch", False, draws),
        ):
            view = View(deterministic=det)
            image = generator.synthesis(ws, angles, view, noise_mode=noise, draws=source).image
            report.compare(f"out/{name}", image, case.tensors[f"out/{name}"], rtol=IMAGE_RTOL)
    draws.finish()


def pickle_of(case: Case, folder: Path) -> Path:
    """The case's pickle, unpacked into `folder` where it is stored as .xz."""
    path = case.folder / case.info["pickle"]
    if path.suffix != ".xz":
        return path
    unpacked = folder / path.stem
    unpacked.write_bytes(lzma.decompress(path.read_bytes()))
    return unpacked


def _imported(case: Case, report: Report) -> Generator:
    """The generator after import, its configuration and every tensor compared."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.safetensors"
        weights = import_model(pickle_of(case, Path(folder)), out).weights
        loaded = load(out)
    report.equal("unmapped", weights.unmapped, [])
    expected = generator_state_from_official(case.prefix("G_ema/"))
    found = loaded.generator.state_dict()
    report.equal("names", sorted(found), sorted(expected))
    for name in expected.keys() & found.keys():
        report.equal(f"G_ema/{name}", torch.equal(found[name], expected[name]), True)
    ours, recorded = loaded.config, case.config()
    for section in ("generator", "discriminator", "loss_kwargs"):
        same = getattr(ours.model, section) == getattr(recorded.model, section)
        report.equal(f"config/model.{section}", same, True)
    return loaded.generator
