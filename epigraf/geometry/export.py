"""Write meshes: the ending of the file's name chooses the format. V vertices, F faces.

Every file is written beside its final name and then renamed: a reader never sees half a file.
World units and axes (y up, right-handed) are the same in all formats.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from epigraf.errors import DataError
from epigraf.geometry.gltf import encode_glb
from epigraf.geometry.mesh import Mesh
from epigraf.geometry.usd import USD_ENDINGS, write_usd
from epigraf.geometry.wavefront import ROWS, encode_mtl, encode_obj, encode_png

TEXTURED = {".glb", ".obj", ".npz", *USD_ENDINGS}
"""Formats that hold a texture."""


def save_mesh(mesh: Mesh, path: Path) -> Path:
    """Write a mesh; the suffix of `path` chooses the format.

    .ply (binary), .obj and .npz store vertex colours as they are, sRGB; .glb, .usd* linear, as
    their specifications demand; .stl has none. Textures are sRGB PNG, within .glb and .usdz,
    beside .obj (with its .mtl) and .usdc, .usda. The mesh's facts go into comments (ply, obj),
    `asset.extras` (glb), the header (stl, cut to its 80 bytes), the layer's custom data (usd) or a
    JSON text (npz).

    Raises:
        DataError: another suffix, a texture where there is no place for it, a missing package, or
            the file cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in MESH_ENDINGS:
        raise DataError(f"mesh: cannot write {path.name}; use one of {', '.join(MESH_ENDINGS)}")
    if mesh.texture is not None and ending not in TEXTURED:
        raise DataError(f"mesh: {ending} holds no texture; use .glb, .obj, .usdz or .npz")
    if ending in USD_ENDINGS:
        return write_atomically(path, lambda temporary: write_usd(mesh, temporary, path))
    if ending == ".npz":
        return write_atomically(path, lambda temporary: _write_npz(mesh, temporary))
    if ending == ".obj" and mesh.texture is not None:
        _write_parts(path.with_suffix(".png"), [encode_png(mesh.texture)])
        _write_parts(path.with_suffix(".mtl"), [encode_mtl(path.stem)])
    if ending == ".obj":
        return _write_parts(path, encode_obj(mesh, path.stem))
    encode = {".ply": _ply, ".glb": encode_glb, ".stl": _stl}[ending]
    return _write_parts(path, encode(mesh))


MESH_ENDINGS = (".glb", ".obj", ".ply", ".stl", ".npz", *USD_ENDINGS)


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file in the same folder, then rename it to `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f".{path.name}")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def _write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> Path:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.writelines(parts)

    return write_atomically(path, write)


def _ply(mesh: Mesh) -> Iterator[bytes]:
    """Binary little-endian PLY."""
    fields = [("position", "<f4", 3), ("normal", "<f4", 3)]
    names = ["x", "y", "z", "nx", "ny", "nz"]
    header = ["ply", "format binary_little_endian 1.0", "comment epigraf"]
    header += [f"comment {name}: {value}" for name, value in mesh.facts.items()]
    header += [f"element vertex {len(mesh.vertices)}"]
    header += [f"property float {name}" for name in names]
    if mesh.colors is not None:
        fields.append(("color", "u1", 3))
        header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
    yield "\n".join([*header, "end_header", ""]).encode("ascii", "replace")
    for start in range(0, len(mesh.vertices), ROWS):
        part = slice(start, start + ROWS)
        vertices = np.zeros(len(mesh.vertices[part]), dtype=fields)
        vertices["position"], vertices["normal"] = mesh.vertices[part], mesh.normals[part]
        if mesh.colors is not None:
            vertices["color"] = mesh.colors[part]
        yield vertices.tobytes()
    for start in range(0, len(mesh.faces), ROWS):
        part = mesh.faces[start : start + ROWS]
        faces = np.zeros(len(part), dtype=[("count", "u1"), ("index", "<i4", 3)])
        faces["count"], faces["index"] = 3, part
        yield faces.tobytes()


def _stl(mesh: Mesh) -> Iterator[bytes]:
    """Binary STL: a normal and three corners for each face."""
    facts = "; ".join(f"{name} {value}" for name, value in mesh.facts.items())
    yield f"epigraf {facts}".encode("ascii", "replace")[:80].ljust(80)
    yield np.uint32(len(mesh.faces)).tobytes()
    rows = [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]
    for start in range(0, len(mesh.faces), ROWS):
        corners = mesh.vertices[mesh.faces[start : start + ROWS]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
        facets = np.zeros(len(corners), dtype=rows)
        facets["normal"], facets["corners"] = normal, corners
        yield facets.tobytes()


def _write_npz(mesh: Mesh, temporary: Path) -> None:
    """The arrays of a Mesh by their names, those that it has, and `facts` as JSON."""
    names = ("vertices", "faces", "normals", "colors", "uv", "texture")
    arrays = {name: value for name in names if (value := getattr(mesh, name)) is not None}
    with temporary.open("wb") as file:
        np.savez_compressed(file, facts=np.array(json.dumps(mesh.facts)), **arrays)
