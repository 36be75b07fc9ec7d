"""Write meshes (ply, obj, glb) and volumes (mrc). V vertices, F faces.

Every file is written beside its final name and then renamed: a reader never sees half a file.
World units and axes (y up, right-handed) are the same in all formats.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np

from epigraf.errors import DataError
from epigraf.geometry.density import Volume
from epigraf.geometry.mesh import Mesh

_GL_FLOAT, _GL_UINT32 = 5126, 5125
_GL_VERTICES, _GL_INDICES = 34962, 34963


def save_mesh(mesh: Mesh, path: Path) -> Path:
    """Write a mesh; the suffix of `path` (.ply, .obj, .glb) chooses the format.

    ply (binary) and obj ("v x y z r g b", r g b in [0, 1]) store the colours as they are, sRGB; glb
    stores them linear, as glTF 2.0 (section 3.7.2.1) demands of COLOR_0.

    Raises:
        DataError: another suffix, or the file cannot be written.
    """
    encoders: dict[str, Callable[[Mesh], bytes]] = {".ply": _ply, ".obj": _obj, ".glb": _glb}
    encoder = encoders.get(path.suffix.lower())
    if encoder is None:
        raise DataError(f"mesh: cannot write {path.name}; use one of {', '.join(encoders)}")
    content = encoder(mesh)
    return _write_atomically(path, lambda temporary: temporary.write_bytes(content))


def save_volume(volume: Volume, path: Path) -> Path:
    """Write raw densities as MRC2014 (float32, mode 2), voxel size and origin in the header.

    The file's data are indexed [z, y, x], as the format wants. Lengths are world units, where the
    format nominally has angstrom.

    Raises:
        DataError: another suffix, or the file cannot be written.
    """
    if path.suffix.lower() != ".mrc":
        raise DataError(f"volume: cannot write {path.name}; use .mrc")

    def write(temporary: Path) -> None:
        with mrcfile.new(temporary, overwrite=True) as file:
            file.set_data(np.ascontiguousarray(volume.values.transpose(2, 1, 0), np.float32))
            file.voxel_size = tuple(float(s) for s in volume.lattice.spacing)
            if file.header is not None:  # it is there from `new` on
                file.header.origin = volume.lattice.bounds.low

    return _write_atomically(path, write)


def _write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
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


def _ply(mesh: Mesh) -> bytes:
    """Binary little-endian PLY."""
    fields = [("position", "<f4", 3), ("normal", "<f4", 3)]
    names = ["x", "y", "z", "nx", "ny", "nz"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(mesh.vertices)}"]
    header += [f"property float {name}" for name in names]
    if mesh.colors is not None:
        fields.append(("color", "u1", 3))
        header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
    vertices = np.zeros(len(mesh.vertices), dtype=fields)
    vertices["position"], vertices["normal"] = mesh.vertices, mesh.normals
    if mesh.colors is not None:
        vertices["color"] = mesh.colors
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces
    text = "\n".join([*header, "end_header", ""]).encode("ascii")
    return text + vertices.tobytes() + faces.tobytes()


def _obj(mesh: Mesh) -> bytes:
    """Wavefront OBJ with the common vertex colour extension; indices count from 1."""
    columns = [mesh.vertices]
    vertex = "v {:.7g} {:.7g} {:.7g}"
    if mesh.colors is not None:
        columns.append(mesh.colors / 255.0)
        vertex += " {:.5f} {:.5f} {:.5f}"
    lines = [vertex.format(*row) for row in np.concatenate(columns, axis=1).tolist()]
    lines += ["vn {:.6f} {:.6f} {:.6f}".format(*row) for row in mesh.normals.tolist()]
    lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")


def _glb(mesh: Mesh) -> bytes:
    """Binary glTF 2.0 with one mesh.

    It names no material: some readers drop vertex colours beside one.
    """
    position = mesh.vertices.astype("<f4")
    arrays: dict[str, np.ndarray] = {"POSITION": position, "NORMAL": mesh.normals.astype("<f4")}
    if mesh.colors is not None:
        arrays["COLOR_0"] = _linear_from_srgb(mesh.colors).astype("<f4")
    attributes = {name: i for i, name in enumerate(arrays)}
    blobs = [array.tobytes() for array in arrays.values()] + [mesh.faces.astype("<u4").tobytes()]
    accessors = [_accessor(i, array, "VEC3") for i, array in enumerate(arrays.values())]
    accessors[0]["min"], accessors[0]["max"] = position.min(0).tolist(), position.max(0).tolist()
    indices = {"bufferView": len(arrays), "componentType": _GL_UINT32, "type": "SCALAR"}
    accessors.append({**indices, "count": mesh.faces.size})
    primitive = {"attributes": attributes, "indices": len(arrays)}
    tree = {
        "asset": {"version": "2.0", "generator": "epigraf"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": _buffer_views(blobs),
        "buffers": [{"byteLength": sum(map(len, blobs))}],
    }
    return _pack_glb(json.dumps(tree).encode("ascii"), b"".join(blobs))


def _accessor(view: int, array: np.ndarray, kind: str) -> dict:
    return {"bufferView": view, "componentType": _GL_FLOAT, "count": len(array), "type": kind}


def _buffer_views(blobs: list[bytes]) -> list[dict]:
    """One view for each blob, one after another; the last one holds the indices."""
    views, offset = [], 0
    for i, blob in enumerate(blobs):
        target = _GL_INDICES if i == len(blobs) - 1 else _GL_VERTICES
        size = {"byteOffset": offset, "byteLength": len(blob)}
        views.append({"buffer": 0, **size, "target": target})
        offset += len(blob)
    return views


def _pack_glb(tree: bytes, binary: bytes) -> bytes:
    """Header and the two chunks, each padded to four bytes (glTF 2.0, section 4.4)."""
    tree += b" " * (-len(tree) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<I4s", len(tree), b"JSON") + tree
    chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: uint8 sRGB to linear [0, 1]."""
    value = colors.astype(np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
