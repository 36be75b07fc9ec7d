"""Names and bytes: zips and folders alike, and everything that can be wrong with a zip."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import pytest

from epigraf.data.archive import Archive
from epigraf.errors import DataError
from tests.data.conftest import png, write_set


def test_names_are_sorted_and_only_pictures_count(set_path: Path) -> None:
    files = {"b/2.PNG": png(), "a/1.webp": b"x", "note.txt": b"x", "depth.npz": b"x"}
    hidden = {"__MACOSX/b/2.png": b"x", "a/._1.webp": b"x", ".cache/3.png": b"x"}
    with Archive(write_set(set_path, {**files, **hidden}, {})) as archive:
        assert archive.images == ["a/1.webp", "b/2.PNG"]
        assert archive.indices == ["dataset.json"]
        assert archive.name == "set"
        assert archive.read("b/2.PNG") == png()
        assert archive.size("note.txt") == 1
        assert archive.problems == []


def test_nearest_index_comes_first(set_path: Path) -> None:
    files = {"deep/er/dataset.json": b"{}", "deep/dataset.json": b"{}"}
    with Archive(write_set(set_path, files)) as archive:
        assert archive.indices == ["deep/dataset.json", "deep/er/dataset.json"]


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        Archive(tmp_path / "nowhere.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(DataError, match="not a readable zip file"):
        Archive(tmp_path / "text.zip")


def test_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set.zip", {"a.png": png(32)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated download"):
        Archive(path)


@pytest.mark.parametrize(
    "name", ["../out.png", "/etc/a.png", "C:/a.png", "a/../../b.png", "..\\a.png"]
)
def test_names_that_leave_the_folder_are_reported(tmp_path: Path, name: str) -> None:
    with Archive(write_set(tmp_path / "set.zip", {name: png(), "ok.png": png()})) as archive:
        assert archive.images == ["ok.png"]
        assert "unsafe name" in str(archive.problems[0])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_entries_are_reported(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as out:
        out.writestr("a.png", png(seed=1))
        out.writestr("a.png", png(seed=2))
    with Archive(tmp_path / "set.zip") as archive:
        assert [problem.file for problem in archive.problems] == ["a.png"]
        assert "twice" in archive.problems[0].message


def test_encrypted_entries_are_reported(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set.zip", {"a.png": png()})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    (flags,) = struct.unpack_from("<H", data, directory + 8)
    struct.pack_into("<H", data, directory + 8, flags | 1)
    path.write_bytes(data)
    with Archive(path) as archive:
        assert "encrypted" in archive.problems[0].message


def test_damaged_entry_cannot_be_read(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set.zip", {"a.png": png()})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with Archive(path) as archive, pytest.raises(DataError, match=r"cannot be read.*CRC"):
        archive.read("a.png")


def test_dangling_links_do_not_stop_the_listing(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"a.png": png()})
    os.symlink(tmp_path / "gone.png", folder / "b.png")
    with Archive(folder) as archive, pytest.raises(DataError, match="cannot be read"):
        archive.read(archive.images[1])
