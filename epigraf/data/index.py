"""`dataset.json`: labels and camera angles by image name, read leniently, checked strictly.

Shapes: N images, K classes or label width.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from epigraf.data.archive import INDEX_NAME, Archive
from epigraf.data.problems import Problem
from epigraf.errors import DataError

FIELDS = ("camera_angles", "labels")
SLACK = 1e-5  # radians; poses written with few digits may pass the ends of their range by rounding
LARGEST_CLASS = 65535  # labels are one-hot: a larger number is an identifier, not a class
LABEL_KINDS = "a class number >= 0 or a list of numbers"


@dataclass(frozen=True)
class Index:
    """What `dataset.json` says, aligned with `Archive.images`.

    Attributes:
        labels: float32 [N, K] (one-hot of class numbers, or the vectors as written), or None.
        angles: float32 [N, 3] (yaw, pitch, roll) in radians, or None.
        classes: int64 [N] class numbers where labels are numbers, else None.
    """

    labels: np.ndarray | None
    angles: np.ndarray | None
    classes: np.ndarray | None


def read_index(archive: Archive) -> tuple[Index, list[Problem]]:
    """Read and check the index of an archive.

    Names match images ignoring the extension, and relative to the root, to `dataset.json`, or
    below a leading `<data set name>/`. Each field is a dict or a list of `[name, value]` pairs;
    a missing or null field means that the set has none.

    Returns:
        The index, and every problem found. Fields with problems come back as None.
    """
    if not archive.indices:
        return Index(None, None, None), []
    name = archive.indices[0]
    problems: list[Problem] = []
    rivals = [other for other in archive.indices[1:] if other.count("/") == name.count("/")]
    problems += [Problem(other, f"second {INDEX_NAME} beside {name}") for other in rivals]
    try:
        content = _parse(archive.read(name))
    except DataError as error:
        return Index(None, None, None), [*problems, Problem(name, str(error))]
    problems += _misspelt(content, name)
    matcher = _Matcher(archive, name)
    problems += matcher.problems
    values = {field: _field(content, field, matcher, name, problems) for field in FIELDS}
    angles = _angles(values["camera_angles"], archive.images, problems)
    labels, classes = _labels(values["labels"], archive.images, problems)
    return Index(labels, angles, classes), problems


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as written, so that repeated keys are seen."""


def _parse(data: bytes) -> dict[str, Any]:
    try:
        pairs = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}") from error
    if not isinstance(pairs, _Pairs):
        raise DataError('must be an object like {"labels": ..., "camera_angles": ...}')
    return dict(pairs)


def _misspelt(content: dict[str, Any], index_name: str) -> list[Problem]:
    """Fields that nobody reads but that look like one somebody meant."""
    found: list[Problem] = []
    for field in content.keys() - set(FIELDS):
        near = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.75)
        if near and near[0] not in content:
            found.append(Problem(index_name, f"unknown field {field!r}: did you mean {near[0]!r}?"))
    return found


def _stem(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.with_suffix("").as_posix() if path.name else path.as_posix()


class _Matcher:
    """Finds the image that an entry of the index means."""

    def __init__(self, archive: Archive, index_name: str) -> None:
        self.images = archive.images
        self.problems: list[Problem] = []
        self._by_stem: dict[str, int] = {}
        prefixes = {
            f"{archive.name}/",
            f"{PurePosixPath(index_name).parent.as_posix()}/",
            "./",
        }
        self._prefixes = sorted(prefixes)
        for number, image in enumerate(self.images):
            other = self._by_stem.setdefault(_stem(image), number)
            if other != number:
                text = f"duplicate name: differs from {self.images[other]} only in its extension"
                self.problems.append(Problem(image, text))
        for number, image in enumerate(self.images):
            for prefix in self._prefixes:
                if image.startswith(prefix):
                    self._by_stem.setdefault(_stem(image[len(prefix) :]), number)

    def find(self, key: str) -> int | None:
        stem = _stem(key)
        if stem in self._by_stem:
            return self._by_stem[stem]
        for prefix in self._prefixes:
            if stem.startswith(prefix) and stem[len(prefix) :] in self._by_stem:
                return self._by_stem[stem[len(prefix) :]]
        return None


def _field(
    content: dict[str, Any],
    field: str,
    matcher: _Matcher,
    index_name: str,
    out: list[Problem],
) -> list[Any] | None:
    """One field aligned with the images (None where the whole field is absent)."""
    raw = content.get(field)
    if raw is None or len(raw if isinstance(raw, list) else [0]) == 0:
        return None
    if not isinstance(raw, list) or not all(_is_pair(item) for item in raw):
        text = f"{field} must be an object {{name: value}} or a list of [name, value]"
        out.append(Problem(index_name, text))
        return None
    values: list[Any] = [None] * len(matcher.images)
    found = [False] * len(matcher.images)
    for key, value in raw:
        number = matcher.find(key)
        if number is None:
            out.append(Problem(key, f"is named in {field} but there is no such image"))
        elif found[number]:
            out.append(Problem(key, f"duplicate name: appears twice in {field}"))
        else:
            values[number], found[number] = value, True
    missing = [image for image, value in zip(matcher.images, values, strict=True) if value is None]
    out.extend(Problem(image, f"has no entry in {field}") for image in missing)
    return values


def _is_pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_vector(value: Any) -> bool:
    plain = isinstance(value, list) and not isinstance(value, _Pairs)
    return plain and len(value) > 0 and all(_is_number(number) for number in value)


def _angles(values: list[Any] | None, images: list[str], out: list[Problem]) -> np.ndarray | None:
    if values is None:
        return None
    complaints = [_angle_complaint(value) for value in values]
    bad = [Problem(i, c) for i, c in zip(images, complaints, strict=True) if c]
    out.extend(bad)
    if bad or any(value is None for value in values):
        return None
    angles = np.asarray(values, dtype=np.float32)
    if len(angles) > 1 and not angles.any():
        out.append(Problem("", "camera_angles are all zero: write null if poses are unknown"))
        return None
    return angles


def _angle_complaint(value: Any) -> str | None:
    if value is None:
        return None
    if not _is_vector(value) or len(value) != 3:
        return f"camera_angles must be [yaw, pitch, roll] in radians, got {_short(value)}"
    if not all(math.isfinite(number) for number in value):
        return f"camera_angles are not finite: {_short(value)}"
    yaw, pitch, _ = value
    if abs(yaw) > math.pi + SLACK:
        return f"yaw {yaw:.4g} is outside [-pi, pi]" + _degrees_hint(yaw)
    if not -SLACK <= pitch <= math.pi + SLACK:
        return f"pitch {pitch:.4g} is outside [0, pi] (measured from +y)" + _degrees_hint(pitch)
    return None


def _degrees_hint(value: float) -> str:
    return ": are these degrees? radians are expected" if abs(value) > 2 * math.pi else ""


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _labels(
    values: list[Any] | None, images: list[str], out: list[Problem]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(float32 [N, K], int64 [N] or None)."""
    if values is None:
        return None, None
    given = [value for value in values if value is not None]
    wide = bool(given) and _is_vector(given[0])
    width = len(given[0]) if wide else 0
    bad = [
        Problem(image, text)
        for image, value in zip(images, values, strict=True)
        if value is not None and (text := _label_complaint(value, wide, width))
    ]
    out.extend(bad)
    if bad or len(given) < len(values):
        return None, None
    if wide:
        return np.asarray(values, dtype=np.float32), None
    classes = np.asarray(values, dtype=np.int64)
    labels = np.zeros((len(classes), int(classes.max()) + 1), dtype=np.float32)
    labels[np.arange(len(classes)), classes] = 1
    return labels, classes


def _label_complaint(value: Any, wide: bool, width: int) -> str | None:
    if wide:
        if not _is_vector(value) or len(value) != width:
            return f"label must be a list of {width} numbers like the others, got {_short(value)}"
        if not all(math.isfinite(number) for number in value):
            return f"label is not finite: {_short(value)}"
        return None
    if not _is_number(value) or not math.isfinite(value) or value != int(value) or value < 0:
        return f"label must be {LABEL_KINDS}, the same for all images, got {_short(value)}"
    if value > LARGEST_CLASS:
        return f"class number {_short(value)} is above {LARGEST_CLASS}: number the classes from 0"
    return None
