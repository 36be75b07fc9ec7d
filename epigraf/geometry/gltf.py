"""Binary glTF 2.0 with one mesh: vertex colours, or an unlit material with a texture.

Colours already hold the light of the pictures that a model has seen, hence KHR_materials_unlit.
Without a texture no material is named: some readers drop vertex colours beside one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from epigraf.geometry.mesh import Mesh
from epigraf.geometry.wavefront import encode_png

_GL_FLOAT, _GL_UINT32 = 5126, 5125
_GL_VERTICES, _GL_INDICES = 34962, 34963


def encode_glb(mesh: Mesh) -> Iterator[bytes | memoryview]:
    """The file, in parts. COLOR_0 is linear (glTF 2.0, section 3.7.2.1), the texture sRGB, v
    downwards (3.9.2)."""
    position = mesh.vertices.astype("<f4")
    arrays: dict[str, np.ndarray] = {
        "POSITION": position,
        "NORMAL": mesh.normals.astype("<f4", copy=False),
    }
    if mesh.colors is not None:
        arrays["COLOR_0"] = linear_from_srgb(np.arange(256)).astype("<f4")[mesh.colors]
    if mesh.uv is not None:
        arrays["TEXCOORD_0"] = (mesh.uv * [1, -1] + [0, 1]).astype("<f4")
    accessors = [_accessor(i, array) for i, array in enumerate(arrays.values())]
    accessors[0]["min"], accessors[0]["max"] = position.min(0).tolist(), position.max(0).tolist()
    indices = {"bufferView": len(arrays), "componentType": _GL_UINT32, "type": "SCALAR"}
    accessors.append({**indices, "count": mesh.faces.size})
    primitive: dict[str, Any] = {
        "attributes": {name: i for i, name in enumerate(arrays)},
        "indices": len(arrays),
    }
    faces = mesh.faces.astype("<u4", copy=False)
    blobs = [np.ascontiguousarray(array).data.cast("B") for array in (*arrays.values(), faces)]
    targets: list[int | None] = [*([_GL_VERTICES] * len(arrays)), _GL_INDICES]
    tree: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "epigraf", "extras": mesh.facts},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
    }
    if mesh.texture is not None:
        primitive["material"] = 0
        tree.update(_material(len(blobs)))
        picture = encode_png(mesh.texture)
        blobs.append(memoryview(picture + b"\0" * (-len(picture) % 4)))
        targets.append(None)
    tree["bufferViews"] = _buffer_views(blobs, targets)
    tree["buffers"] = [{"byteLength": sum(map(len, blobs))}]
    yield _head(json.dumps(tree).encode("utf-8"), tree["buffers"][0]["byteLength"])
    yield from blobs


def _material(view: int) -> dict[str, Any]:
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1}
    unlit = "KHR_materials_unlit"
    return {
        "extensionsUsed": [unlit],
        "materials": [{"pbrMetallicRoughness": surface, "extensions": {unlit: {}}}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": 9729, "minFilter": 9729}],  # linear: charts have no mipmaps
        "images": [{"bufferView": view, "mimeType": "image/png"}],
    }


def _accessor(view: int, array: np.ndarray) -> dict[str, Any]:
    kind = f"VEC{array.shape[1]}"
    return {"bufferView": view, "componentType": _GL_FLOAT, "count": len(array), "type": kind}


def _buffer_views(blobs: list[memoryview], targets: list[int | None]) -> list[dict[str, Any]]:
    """One view for each blob, one after another."""
    views, offset = [], 0
    for blob, target in zip(blobs, targets, strict=True):
        view = {"buffer": 0, "byteOffset": offset, "byteLength": len(blob)}
        views.append(view if target is None else {**view, "target": target})
        offset += len(blob)
    return views


def _head(tree: bytes, size: int) -> bytes:
    """All but the `size` bytes of the second chunk; chunks are padded to four bytes (glTF 2.0,
    section 4.4), and all arrays here are of four."""
    tree += b" " * (-len(tree) % 4)
    chunks = struct.pack("<I4s", len(tree), b"JSON") + tree + struct.pack("<I4s", size, b"BIN\0")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks) + size) + chunks


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: uint8 sRGB to linear [0, 1]."""
    value = colors.astype(np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
