"""Wavefront OBJ, its material and its picture. Indices count from 1; v of uv upwards."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from epigraf.geometry.mesh import Mesh

ROWS = 1 << 18
"""Of a table at a time (memory)."""


def encode_obj(mesh: Mesh, name: str) -> Iterator[bytes]:
    """The geometry, in parts, with the common vertex colour extension ("v x y z r g b", r g b sRGB
    in [0, 1]) or, with a texture, texture coordinates and the material of `name`.mtl."""
    head = ["# epigraf", *(f"# {key}: {value}" for key, value in mesh.facts.items())]
    if mesh.uv is not None:
        head += [f"mtllib {name}.mtl", "usemtl surface"]
    yield ("\n".join(head) + "\n").encode("utf-8")
    for start in range(0, len(mesh.vertices), ROWS):
        part = slice(start, start + ROWS)
        if mesh.colors is None:
            yield _lines("v {:.7g} {:.7g} {:.7g}", mesh.vertices[part])
        else:
            rows = np.concatenate([mesh.vertices[part], mesh.colors[part] / 255.0], axis=1)
            yield _lines("v {:.7g} {:.7g} {:.7g} {:.5f} {:.5f} {:.5f}", rows)
        yield _lines("vn {:.6f} {:.6f} {:.6f}", mesh.normals[part])
        if mesh.uv is not None:
            yield _lines("vt {:.6f} {:.6f}", mesh.uv[part])
    corner = "{i}//{i}" if mesh.uv is None else "{i}/{i}/{i}"
    face = " ".join(["f", *(corner.replace("i", str(i)) for i in range(3))])
    for start in range(0, len(mesh.faces), ROWS):
        yield _lines(face, mesh.faces[start : start + ROWS] + 1)


def _lines(form: str, rows: np.ndarray) -> bytes:
    return "".join(f"{form.format(*row)}\n" for row in rows.tolist()).encode("ascii")


def encode_mtl(name: str) -> bytes:
    """One material without highlights that shows `name`.png."""
    lines = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {name}.png"]
    return ("\n".join(lines) + "\n").encode("utf-8")


def encode_png(picture: np.ndarray) -> bytes:
    """[H, W, 3] uint8 as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
