from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from epigraf.cli.media import save_picture
from epigraf.cli.page import Page, Pictures, Words, duration, packed_mesh, write_page
from epigraf.geometry.mesh import Mesh


@pytest.fixture
def tetrahedron() -> Mesh:
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]], dtype=np.float64)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    normals = np.array([[-1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float64)
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], dtype=np.uint8)
    return Mesh(vertices, faces, normals, colors)


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def test_packed_mesh(tetrahedron: Mesh) -> None:
    packed = packed_mesh(tetrahedron)
    assert packed["corners"] == 12
    faces = unpacked(str(packed["faces"]), "<u4").reshape(-1, 3)
    assert np.array_equal(faces, tetrahedron.faces)
    colors = unpacked(str(packed["colors"]), "<u1").reshape(-1, 4)
    assert np.array_equal(colors[:, :3], tetrahedron.colors)
    normals = unpacked(str(packed["normals"]), "<i1").reshape(-1, 4)[:, :3] / 127
    assert np.allclose(normals, tetrahedron.normals)
    places = unpacked(str(packed["places"]), "<i2").reshape(-1, 4)[:, :3] / 32767
    # the bounding box is the cube 0..2: its centre goes to 0, its corners to distance 1
    assert np.allclose(places, (tetrahedron.vertices - 1) / np.sqrt(3), atol=1e-4)


@pytest.fixture
def html(tmp_path: Path, tetrahedron: Mesh) -> str:
    picture, video = tmp_path / "a.png", tmp_path / "a.mp4"
    save_picture(np.zeros((2, 2, 3), np.uint8), picture)
    video.write_bytes(b"film")
    pictures = Pictures(video, picture, picture, picture, picture, picture, tmp_path / "o.glb")
    words = Words(*(f"<{name}> & $more" for name in Words.__annotations__))
    page = Page(
        words, pictures, tetrahedron, 9, 8, {"speed": "1 < 2"}, ["epigraf a", "b > c"], {"x": 61.0}
    )
    write_page(page, tmp_path / "index.html")
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_anywhere(html: str) -> None:
    links = re.findall(r'(?:src|href|poster|action)="([^"]*)"|url\(([^)]*)\)', html)
    targets = {a or b for a, b in links}
    assert all(t.startswith("data:") or t == "o.glb" for t in targets)
    assert not re.search(r"https?://|//[a-z]+\.|@import", html)


def test_the_page_escapes_and_fills_everything(html: str) -> None:
    assert "&lt;heading&gt; &amp; $more" in html
    assert "<heading>" not in html
    assert "1 &lt; 2" in html
    assert "b &gt; c" in html
    assert "1 min 01 s" in html
    assert "$heading" not in html
    data = re.search(r'id="mesh-data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["corners"] == 12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.87, "9.9 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
