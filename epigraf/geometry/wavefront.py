"""Wavefront OBJ, its material and its picture. Indices count from 1; v of uv upwards."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from epigraf.geometry.mesh import Mesh


def encode_obj(mesh: Mesh, name: str) -> bytes:
    """The geometry, with the common vertex colour extension ("v x y z r g b", r g b sRGB in
    [0, 1]) or, with a texture, texture coordinates and the material of `name`.mtl."""
    columns = [mesh.vertices]
    vertex = "v {:.7g} {:.7g} {:.7g}"
    if mesh.colors is not None:
        columns.append(mesh.colors / 255.0)
        vertex += " {:.5f} {:.5f} {:.5f}"
    lines = ["# epigraf", *(f"# {key}: {value}" for key, value in mesh.facts.items())]
    if mesh.uv is not None:
        lines += [f"mtllib {name}.mtl", "usemtl surface"]
    lines += [vertex.format(*row) for row in np.concatenate(columns, axis=1).tolist()]
    corner = "{0}//{0}"
    if mesh.uv is not None:
        lines += ["vt {:.6f} {:.6f}".format(*row) for row in mesh.uv.tolist()]
        corner = "{0}/{0}/{0}"
    lines += ["vn {:.6f} {:.6f} {:.6f}".format(*row) for row in mesh.normals.tolist()]
    face = " ".join(["f", *(corner.replace("0", str(i)) for i in range(3))])
    lines += [face.format(*row) for row in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("utf-8")


def encode_mtl(name: str) -> bytes:
    """One material without highlights that shows `name`.png."""
    lines = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {name}.png"]
    return ("\n".join(lines) + "\n").encode("utf-8")


def encode_png(picture: np.ndarray) -> bytes:
    """[H, W, 3] uint8 as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
