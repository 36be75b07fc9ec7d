"""A zip file or a folder, seen as names and bytes. Nothing is ever unpacked to disk."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from types import TracebackType

from PIL import Image

from epigraf.data.problems import Problem
from epigraf.errors import DataError

INDEX_NAME = "dataset.json"
LARGEST_ENTRY = 1 << 30  # bytes; no image of a training set is that large, a zip bomb is
NOT_PICTURES = {
    "BUFR",
    "GRIB",
    "HDF5",
    "MPEG",
    "WMF",
}  # Pillow knows them but cannot decode them
READ_ERRORS = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
)


def image_extensions() -> frozenset[str]:
    """Lower-case file extensions (with the dot) of all formats that Pillow can decode."""
    Image.init()
    return frozenset(
        extension.lower()
        for extension, format_name in Image.registered_extensions().items()
        if format_name in Image.OPEN and format_name not in NOT_PICTURES
    )


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") and part != ".." for part in parts) or "__MACOSX" in parts


def _escapes(name: str) -> bool:
    """True for names that would leave the folder they are unpacked into ("zip slip")."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")


class Archive:
    """Names and bytes of a data set.

    Args:
        path: a `.zip` file or a folder (searched recursively, links followed).

    Attributes:
        name: the data set's name: the zip's stem or the folder's name.
        images: sorted names ("/"-separated, relative to the root) of everything that Pillow reads.
        indices: names of the `dataset.json` files, the one nearest to the root first.
        problems: what is wrong with the container itself (encrypted, duplicate or unsafe names).

    Raises:
        DataError: no such file, not a zip, truncated zip.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.problems: list[Problem] = []
        self._zip: zipfile.ZipFile | None = None
        self._lock = threading.Lock()
        if self.path.is_dir():
            self.name = self.path.resolve().name
            self._sizes = self._walk()
        elif self.path.is_file():
            self.name = self.path.stem
            self._sizes = self._open_zip()
        else:
            raise DataError(f"dataset {path}: no such file or folder")
        extensions = image_extensions()
        visible = [name for name in self._sizes if not _is_hidden(name)]
        self.images = sorted(n for n in visible if PurePosixPath(n).suffix.lower() in extensions)
        indices = [name for name in visible if PurePosixPath(name).name == INDEX_NAME]
        self.indices = sorted(indices, key=lambda name: (name.count("/"), name))

    def _walk(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for folder, _, files in os.walk(self.path, followlinks=True):
            for file in files:
                full = Path(folder, file)
                name = full.relative_to(self.path).as_posix()
                sizes[name] = full.stat().st_size if full.exists() else 0
        return sizes

    def _open_zip(self) -> dict[str, int]:
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"dataset {self.path}: not a readable zip file ({error}): truncated download?"
            ) from error
        sizes: dict[str, int] = {}
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            complaint = _entry_complaint(info, seen=info.filename in sizes)
            if complaint:
                self.problems.append(Problem(info.filename, complaint))
            else:
                sizes[info.filename] = info.file_size
        return sizes

    def read(self, name: str) -> bytes:
        """The bytes of one entry. Safe to call from several threads.

        Raises:
            DataError: the entry cannot be read (bad CRC, truncated, permission denied).
        """
        try:
            if self._zip is None:
                return (self.path / name).read_bytes()
            with self._lock:
                return self._zip.read(name)
        except READ_ERRORS as error:
            raise DataError(f"cannot be read: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def size(self, name: str) -> int:
        """Uncompressed size of an entry in bytes."""
        return self._sizes[name]

    def crc(self, name: str) -> int | None:
        """CRC-32 of an entry's bytes as the zip states it; None in a folder, which has none."""
        return None if self._zip is None else self._zip.getinfo(name).CRC

    def close(self) -> None:
        """Close the zip file (no-op for a folder)."""
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _entry_complaint(info: zipfile.ZipInfo, seen: bool) -> str | None:
    if _escapes(info.filename):
        return "unsafe name (it leaves the archive's own folder): rename the entry"
    if info.flag_bits & 1:
        return "is encrypted: store the zip without a password"
    if seen:
        return "duplicate name: the zip holds this entry twice"
    if info.file_size > LARGEST_ENTRY:
        return f"is {info.file_size} bytes: larger than any image ({LARGEST_ENTRY} is the limit)"
    return None
