"""Presets: YAML files that hold only their differences from the defaults."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import yaml

from epigraf.config.tree import Config
from epigraf.errors import ConfigError


def preset_folders() -> list[Path]:
    """Where presets are looked for: the installed package data, or `configs/` of a source tree."""
    installed = Path(str(resources.files("epigraf"))) / "configs"
    tree = Path(__file__).resolve().parent.parent.parent
    source = [tree / "configs"] if (tree / "pyproject.toml").is_file() else []
    return [folder for folder in (*source, installed) if folder.is_dir()]


def list_presets() -> dict[str, Path]:
    """Name -> YAML file of every preset."""
    found: dict[str, Path] = {}
    for folder in preset_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load_config(name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Load a preset by name or a YAML file by path and apply `a.b=c` overrides.

    Raises:
        ConfigError: no such preset or file, not YAML, unknown key, value out of range.
    """
    path = _find_config(str(name))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(f"config: {path} is not valid YAML: {line}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config: {path} must hold a mapping, got {type(values).__name__}")
    values.setdefault("name", path.stem)
    return Config.from_dict(values).with_overrides(overrides)


def _find_config(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"config: no such file: {name}")
        return path
    presets = list_presets()
    if name not in presets:
        close = difflib.get_close_matches(name, presets, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"config: no preset {name!r}{hint} (presets: {', '.join(presets) or 'none found'})"
        )
    return presets[name]
