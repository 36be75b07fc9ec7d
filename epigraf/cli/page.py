"""The demo's web page: one file that needs nothing from anywhere.

Pictures, the video and the mesh are embedded, so that the page still works when it is mailed; only
the link to the mesh file is relative. V vertices, F faces.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from epigraf.cli.media import write_text

if TYPE_CHECKING:
    from epigraf.geometry.mesh import Mesh

_MEDIA = {".png": "image/png", ".mp4": "video/mp4", ".webp": "image/webp", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Pictures:
    """Files that the page shows."""

    video: Path
    strip: Path
    reals: Path
    samples: Path
    growth: Path
    curve: Path
    mesh: Path


@dataclass(frozen=True)
class Words:
    """Plain texts of the page; they are escaped here."""

    title: str
    heading: str
    lead: str
    mesh: str
    data: str
    samples: str
    growth: str
    curve: str
    footer: str


@dataclass(frozen=True)
class Page:
    """Everything on the page: `cells` objects turn in the video, the strip has rows of `views`."""

    words: Words
    pictures: Pictures
    mesh: Mesh
    cells: int
    views: int
    facts: Mapping[str, str]
    commands: Sequence[str]
    seconds: Mapping[str, float]


def write_page(page: Page, out: Path) -> None:
    """Write the page as one HTML file."""
    template = Template(_template())
    text = template.substitute(_texts(page) | _media(page))
    write_text(text, out)


def _template() -> str:
    return resources.files("epigraf.cli").joinpath("page.html").read_text(encoding="utf-8")


def _texts(page: Page) -> dict[str, str]:
    words, escape = page.words, html.escape
    facts = page.facts.items()
    rows = [(name, duration(s)) for name, s in page.seconds.items()]
    return {
        "title": escape(words.title),
        "heading": escape(words.heading),
        "lead": escape(words.lead),
        "mesh_text": escape(words.mesh),
        "data_text": escape(words.data),
        "sample_text": escape(words.samples),
        "growth_text": escape(words.growth),
        "curve_text": escape(words.curve),
        "footer": escape(words.footer),
        "cells": str(page.cells),
        "views": str(page.views),
        "facts": "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts),
        "commands": escape("\n".join(page.commands)),
        "timings": "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows),
    }


def _media(page: Page) -> dict[str, str]:
    pictures = page.pictures
    return {
        "video": embedded(pictures.video),
        "strip": embedded(pictures.strip),
        "reals": embedded(pictures.reals),
        "samples": embedded(pictures.samples),
        "growth": embedded(pictures.growth),
        "curve": embedded(pictures.curve),
        "mesh_file": html.escape(pictures.mesh.name),
        "mesh_data": json.dumps(packed_mesh(page.mesh) | {"picture": embedded(pictures.samples)}),
    }


def embedded(path: Path) -> str:
    """A file as a data URI."""
    return f"data:{_MEDIA[path.suffix]};base64,{_base64(path.read_bytes())}"


def packed_mesh(mesh: Mesh) -> dict[str, str | int]:
    """A mesh for the page's viewer, base64 of little-endian arrays, rows padded to four values.

    Positions are int16 in [-1, 1] around the centre of the bounding box, which is scaled so that
    its longest half diagonal is 1; normals int8, colours uint8, faces uint32.
    """
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    scale = max(float(np.linalg.norm(high - low)) / 2, 1e-9)
    places = (mesh.vertices - (low + high) / 2) / scale
    colors = mesh.colors if mesh.colors is not None else np.full(mesh.vertices.shape, 160)
    return {
        "places": _rows(np.round(places * 32767), "<i2"),
        "normals": _rows(np.round(mesh.normals * 127), "<i1"),
        "colors": _rows(colors, "<u1"),
        "faces": _base64(mesh.faces.astype("<u4").tobytes()),
        "corners": int(mesh.faces.size),
    }


def _rows(values: np.ndarray, dtype: str) -> str:
    """[V, 3] as base64 of [V, 4] (WebGL wants rows aligned to four bytes)."""
    padded = np.zeros((len(values), 4), dtype=dtype)
    padded[:, :3] = values
    return _base64(padded.tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def duration(seconds: float) -> str:
    """1.23 s, 45 s, 3 min 20 s, 1 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
