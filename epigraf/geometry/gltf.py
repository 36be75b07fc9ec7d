"""Binary glTF 2.0 with one mesh: vertex colours, or an unlit material with a texture.

Colours already hold the light of the pictures that a model has seen, hence KHR_materials_unlit.
Without a texture no material is named: some readers drop vertex colours beside one.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from epigraf.geometry.mesh import Mesh
from epigraf.geometry.wavefront import encode_png

_GL_FLOAT, _GL_UINT32 = 5126, 5125
_GL_VERTICES, _GL_INDICES = 34962, 34963


def encode_glb(mesh: Mesh) -> bytes:
    """COLOR_0 is linear (glTF 2.0, section 3.7.2.1), the texture sRGB, v downwards (3.9.2)."""
    position = mesh.vertices.astype("<f4")
    arrays: dict[str, np.ndarray] = {"POSITION": position, "NORMAL": mesh.normals.astype("<f4")}
    if mesh.colors is not None:
        arrays["COLOR_0"] = linear_from_srgb(mesh.colors).astype("<f4")
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
    blobs = [array.tobytes() for array in arrays.values()] + [mesh.faces.astype("<u4").tobytes()]
    targets: list[int | None] = [_GL_VERTICES] * len(arrays) + [_GL_INDICES]
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
        blobs.append(encode_png(mesh.texture))
        targets.append(None)
    blobs = [blob + b"\0" * (-len(blob) % 4) for blob in blobs]
    tree["bufferViews"] = _buffer_views(blobs, targets)
    tree["buffers"] = [{"byteLength": sum(map(len, blobs))}]
    return _pack_glb(json.dumps(tree).encode("utf-8"), b"".join(blobs))


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


def _buffer_views(blobs: list[bytes], targets: list[int | None]) -> list[dict[str, Any]]:
    """One view for each blob, one after another."""
    views, offset = [], 0
    for blob, target in zip(blobs, targets, strict=True):
        view = {"buffer": 0, "byteOffset": offset, "byteLength": len(blob)}
        views.append(view if target is None else {**view, "target": target})
        offset += len(blob)
    return views


def _pack_glb(tree: bytes, binary: bytes) -> bytes:
    """Header and the two chunks, each padded to four bytes (glTF 2.0, section 4.4)."""
    tree += b" " * (-len(tree) % 4)
    chunks = struct.pack("<I4s", len(tree), b"JSON") + tree
    chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: uint8 sRGB to linear [0, 1]."""
    value = colors.astype(np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
