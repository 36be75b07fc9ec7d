"""Options that several commands share; `values.py` reads what they were given."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

_OBJECTS, _CAMERA, _PICTURE, _MACHINE = "Objects", "Camera", "Picture", "Machine"

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A run folder (its newest snapshot), a snapshot file or a shipped model.",
    ),
]
Seeds = Annotated[
    str,
    typer.Option(
        "--seeds",
        help="Which objects: a list of seeds and ranges, like 0-3,7.",
        rich_help_panel=_OBJECTS,
    ),
]
Truncation = Annotated[
    float,
    typer.Option(
        "--trunc",
        min=-2.0,
        max=2.0,
        help="Truncation psi: 1 = full variety, 0 = the mean object (of the class, with labels).",
        rich_help_panel=_OBJECTS,
    ),
]
Truncations = Annotated[
    str,
    typer.Option(
        "--trunc",
        help="Truncation psi in -2..2: 1 = full variety, 0 = the mean object (of its class, with "
        "labels). A list, like 0,0.5,1, makes a column for each.",
        rich_help_panel=_OBJECTS,
    ),
]
ClassIndex = Annotated[
    int | None,
    typer.Option(
        "--class",
        min=0,
        help="Class index for all objects; without it each seed draws its own.",
        rich_help_panel=_OBJECTS,
    ),
]
Mix = Annotated[
    str | None,
    typer.Option(
        "--mix",
        help="Seeds, like 8-11: each object gets the --mix-layers of each of these, a matrix.",
        rich_help_panel=_OBJECTS,
    ),
]
MixLayers = Annotated[
    str | None,
    typer.Option(
        "--mix-layers",
        help="FIRST-LAST style layers that --mix replaces. [dim]Default: the finer half[/dim]",
        rich_help_panel=_OBJECTS,
    ),
]
PathOption = Annotated[
    str | None,
    typer.Option(
        "--path",
        help="How the camera moves: auto, still, circle, front-circle, wiggle, line, points, or a "
        "YAML or JSON file of keyframes.",
        rich_help_panel=_CAMERA,
    ),
]
Yaw = Annotated[
    float | None,
    typer.Option("--yaw", help="Of a still camera, radians.", rich_help_panel=_CAMERA),
]
Pitch = Annotated[
    float | None,
    typer.Option(
        "--pitch",
        help="Of a still camera, radians from the top; 1.57 is the horizon.",
        rich_help_panel=_CAMERA,
    ),
]
Roll = Annotated[
    float | None,
    typer.Option("--roll", help="Of a still camera, radians.", rich_help_panel=_CAMERA),
]
Fov = Annotated[
    float | None,
    typer.Option(
        "--fov",
        min=0.1,
        max=170.0,
        help="Field of view, degrees. [dim]Default: as trained[/dim]",
        rich_help_panel=_CAMERA,
    ),
]
Radius = Annotated[
    float | None,
    typer.Option(
        "--radius",
        min=0.05,
        max=100.0,
        help="Distance of the camera from the origin. [dim]Default: as trained[/dim]",
        rich_help_panel=_CAMERA,
    ),
]
Zoom = Annotated[
    float,
    typer.Option(
        "--zoom",
        min=0.05,
        max=20.0,
        help="Magnify by this factor half way along the path, and back.",
        rich_help_panel=_CAMERA,
    ),
]
Dolly = Annotated[
    float,
    typer.Option(
        "--dolly",
        min=0.05,
        max=20.0,
        help="Drive so many times nearer half way along the path, and back. With --zoom 1/DOLLY: a "
        "dolly zoom.",
        rich_help_panel=_CAMERA,
    ),
]
Outputs = Annotated[
    str,
    typer.Option(
        "--outputs",
        help="Side by side: color, depth, raw_depth, normal, opacity, density (a cross-section), "
        "foreground, background.",
        rich_help_panel=_PICTURE,
    ),
]
Resolution = Annotated[
    int | None,
    typer.Option(
        "--resolution",
        min=4,
        max=8192,
        help="Side of the whole picture in pixels; any size works. [dim]Default: as trained[/dim]",
        rich_help_panel=_PICTURE,
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        help="X,Y,W,H: render only this part; fractions if one has a point, else pixels.",
        rich_help_panel=_PICTURE,
    ),
]
Supersample = Annotated[
    int,
    typer.Option(
        "--supersample",
        min=1,
        max=8,
        help="N x N rays a pixel, averaged: smooth edges.",
        rich_help_panel=_PICTURE,
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality",
        min=1,
        max=100,
        help="Of lossy files. [dim]Default: 85; x264's crf is 51 - 0.4 QUALITY[/dim]",
        rich_help_panel=_PICTURE,
    ),
]
ModelOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change how the model is rendered, e.g. model.generator.test_ray_steps=128 or "
        "render.backend=ops. Repeatable.",
        rich_help_panel=_MACHINE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:N, or auto: a GPU if there is one.",
        rich_help_panel=_MACHINE,
    ),
]


class MeshFormat(Enum):
    """File formats of `mesh` and of the demo."""

    GLB = "glb"
    OBJ = "obj"
    PLY = "ply"
    STL = "stl"
    NPZ = "npz"
    USDZ = "usdz"
    USDC = "usdc"
    USDA = "usda"
    MRC = "mrc"


class MesherName(Enum):
    """What triangulates a surface."""

    PYMCUBES = "pymcubes"
    FLEXICUBES = "flexicubes"
    TETRAHEDRA = "tetrahedra"


class Layout(Enum):
    """The views of an object: in a row, or the first large and the others small beneath it."""

    ROW = "row"
    FRONT = "front"


class PictureFormat(Enum):
    """Files of pictures."""

    PNG = "png"
    JPG = "jpg"
    WEBP = "webp"


class NumbersFormat(Enum):
    """Files of numbers."""

    NPZ = "npz"
    EXR = "exr"
    PNG16 = "png16"


class Interpolation(Enum):
    """How one object becomes the next: straight in w, or along great circles in z."""

    W = "w"
    Z = "z"
