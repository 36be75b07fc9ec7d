"""`epigraf metrics`: how close a model's pictures come to a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.cli.arguments import Device, Model, ModelOverrides

if TYPE_CHECKING:
    from epigraf.config import Config
    from epigraf.data.images import ImageDataset


Data = Annotated[Path, typer.Option("--data", help="The data set: a zip or a folder.")]
Samples = Annotated[int, typer.Option("--samples", min=8, help="Generated pictures to compare.")]
Features = Annotated[
    str,
    typer.Option("--features", help="rc64 (built in), or a TorchScript network of yours."),
]
Psi = Annotated[float, typer.Option("--trunc", min=-2.0, max=2.0, help="Truncation psi.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the generated pictures.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Also write scores and protocol as JSON.")
]


def metrics(
    model: Model,
    data: Data,
    samples: Samples = 2048,
    features: Features = "rc64",
    trunc: Psi = 1.0,
    seed: Seed = 0,
    out: Out = None,
    override: ModelOverrides = None,
    device: Device = "auto",
) -> None:
    """Measure Frechet and kernel distance, precision, recall and diversity against a data set.

    The built-in features (rc64: fixed random filters) need no download; their scores are named
    after them and cannot be compared with published FID. Diversity is the distance between fakes
    of one class over that between reals. Every result carries its protocol.

    [bold]Examples[/bold]

      epigraf metrics runs/00000-tiny-shapes --data shapes
      epigraf metrics MODEL --data plants.zip --samples 5000 --out scores.json
      epigraf metrics MODEL --data ffhq.zip --features inception.pt
    """
    from epigraf.cli.media import write_text
    from epigraf.cli.models import open_model
    from epigraf.metrics.evaluate import Protocol, evaluate_generator
    from epigraf.metrics.features import load_features
    from epigraf.rendering.draws import RandomDraws

    extractor = load_features(features)
    loaded = open_model(model, override, device)
    result = evaluate_generator(
        loaded.generator,
        _dataset(data, loaded.config),
        samples,
        draws=RandomDraws(seed),
        features=extractor,
        protocol=Protocol(truncation=trunc),
    )
    for name, value in result.values.items():
        typer.echo(f"{name:<18} {value:.5g}")
    typer.echo(f"{samples} samples of {loaded.path} in {result.seconds:.0f} s")
    if out is not None:
        write_text(result.to_json() + "\n", out)
        typer.echo(out)


def _dataset(path: Path, cfg: Config) -> ImageDataset:
    """The data set as the model was trained on it."""
    from epigraf.data.images import ImageDataset

    training = cfg.training
    return ImageDataset(path, cfg.dataset.resolution, training.mirror, training.use_labels)
