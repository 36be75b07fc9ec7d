"""Optional packages: found at run time, and why not where they are not."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple


class Optional(NamedTuple):
    """A package, or the reason why there is none (empty where there is)."""

    module: ModuleType | None
    reason: str


def import_optional(name: str, needed: Sequence[str] = ()) -> Optional:
    """Import a package that need not be there.

    name: of the module. needed: attributes that it must have; a placeholder package has none.
    Returns the module, or the reason in one line: whatever the import raises becomes one.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return Optional(None, f"{name} is not installed")
        return Optional(None, f"{name} needs {error.name}, which is not installed")
    except Exception as error:  # OSError without CUDA, anything in a broken installation
        text = " ".join(str(error).split()) or "no message"
        return Optional(None, f"{name} fails to import: {type(error).__name__}: {text[:200]}")
    missing = [attribute for attribute in needed if not hasattr(module, attribute)]
    if missing:
        return Optional(None, f"{name} has no {missing[0]}: another package, or too old a version")
    return Optional(module, "")
