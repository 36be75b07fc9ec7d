"""The experiment that a pickled configuration belongs to, as plain values.

The release pickles omegaconf nodes (2.0 to 2.3): containers with `_content` and `_parent`, values
with `_val`. Interpolations (`${training.patch}`) are stored as they were written; they are resolved
from the root, which the chain of `_parent` reaches. Resolvers (`${env:X}`) cannot be: their text
stays, and is an error where the setting matters.
"""

from __future__ import annotations

import re
from typing import Any

from epigraf.interop.inert import Instance, PickleError

MAX_NODES = 50_000
MAX_DEPTH = 60
MAX_NAME = 128
MAX_VALUE = 4096  # characters of one resolved text
_REFERENCE = re.compile(r"\$\{(\.*[\w@-]+(?:[.\[][\w@-]+\]?)*)\}")
_PLAIN = (bool, int, float, str, type(None))
_MISSING = object()


def experiment(cfg: Any, sections: tuple[str, ...]) -> dict[str, Any]:
    """Nested plain values of the sections of the experiment that `cfg` is a part of.

    Args:
        cfg: the pickled configuration of a network.
        sections: keys at the root; those that do not exist are left out.
    Raises:
        PickleError: parents or references that go round, or more than fits an experiment.
    """
    root = cfg
    for _ in range(MAX_DEPTH):
        parent = root.attributes().get("_parent") if isinstance(root, Instance) else None
        if not isinstance(parent, Instance):
            break
        root = parent
    else:
        raise PickleError(f"a configuration under more than {MAX_DEPTH} parents")
    reader = _Reader(_content(root))
    found = {key: reader.read((key,)) for key in sections}
    return {key: value for key, value in found.items() if value is not _MISSING}


def _content(node: Any) -> Any:
    """What a node holds: a dict or a list of nodes, or a value."""
    if not isinstance(node, Instance):
        return node
    attributes = node.attributes()
    return attributes.get("_content", attributes.get("_val"))


class _Reader:
    """Reads keys of the tree below `root`, with a bound on all work together."""

    def __init__(self, root: Any) -> None:
        self.root, self.nodes = root, 0

    def read(self, path: tuple[str, ...], depth: int = 0) -> Any:
        """The plain value at `path`, or _MISSING."""
        node: Any = self.root
        for i, key in enumerate(path):
            node = _content(node)
            if isinstance(node, str) and _REFERENCE.fullmatch(node):  # a reference on the way
                target = self._target(node, path[:i])
                return self.read(target + path[i:], self._deeper(depth))
            if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            elif isinstance(node, dict) and key in node:
                node = node[key]
            else:
                return _MISSING
        return self.plain(node, path, depth)

    def plain(self, node: Any, path: tuple[str, ...], depth: int) -> Any:
        """A node at `path` as plain values."""
        depth = self._deeper(depth)
        value = _content(node)
        if isinstance(value, dict):
            names = [str(key) for key in value if isinstance(key, str | int)]
            if len(names) != len(value) or any(len(name) > MAX_NAME for name in names):
                raise PickleError("config: keys that are not names")
            return {
                k: self.plain(v, (*path, k), depth)
                for k, v in zip(names, value.values(), strict=True)
            }
        if isinstance(value, list | tuple):
            return [self.plain(v, (*path, str(i)), depth) for i, v in enumerate(value)]
        if isinstance(value, str):
            return None if value == "???" else self._resolved(value, path, depth)
        if not isinstance(value, _PLAIN):
            raise PickleError(f"config: {'.'.join(path)!r} is not a plain value")
        return value

    def _resolved(self, text: str, path: tuple[str, ...], depth: int) -> Any:
        """Text with its references replaced; a reference alone may be a whole section."""
        if _REFERENCE.fullmatch(text):
            value = self.read(self._target(text, path), depth)
            return text if value is _MISSING else value

        def replace(match: re.Match[str]) -> str:
            value = self.read(self._target(match[0], path), self._deeper(depth))
            return match[0] if value is _MISSING or isinstance(value, dict | list) else str(value)

        result = _REFERENCE.sub(replace, text) if len(text) <= MAX_VALUE else text
        if len(result) > MAX_VALUE:
            raise PickleError(f"config: {'.'.join(path)!r} is longer than {MAX_VALUE}")
        return result

    def _target(self, reference: str, path: tuple[str, ...]) -> tuple[str, ...]:
        """The keys that a reference at `path` names; each leading dot is one step up."""
        name = reference[2:-1]
        key = name.lstrip(".")
        dots = len(name) - len(key)
        parts = tuple(key.replace("[", ".").replace("]", "").split("."))
        return (*path[:-dots], *parts) if dots else parts

    def _deeper(self, depth: int) -> int:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise PickleError(f"config: more than {MAX_NODES} values")
        if depth >= MAX_DEPTH:
            raise PickleError(f"config: references that go round, or more than {MAX_DEPTH} deep")
        return depth + 1
