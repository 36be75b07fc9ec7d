"""Keys and values as people type them: overrides, typing errors, one-line explanations."""

from __future__ import annotations

import difflib
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from epigraf.errors import ConfigError


def _field_names(root: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    section = root
    for part in path:
        field = section.model_fields.get(str(part))
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        section = kind
    return list(section.model_fields)


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _all_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def nearest_key(key: str, root: type[BaseModel]) -> str | None:
    """The known dotted key that a mistyped one most likely means, or None.

    The right name in the wrong section wins (`model.training.gamma` means `training.gamma`).
    """
    known = _all_keys(root)
    same_leaf = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    close = difflib.get_close_matches(
        key, same_leaf or known, n=1, cutoff=0.0 if same_leaf else 0.6
    )
    return close[0] if close else None


def _unknown_key(key: str, root: type[BaseModel]) -> str:
    hint = nearest_key(key, root)
    return f"unknown key {key!r}" + (f"; did you mean {hint!r}?" if hint else "")


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """One line for the first problem of a tree of sections, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    unknown = first["type"] == "extra_forbidden"
    loc = first["loc"] if unknown else _strip_union(root, first["loc"])
    key = ".".join(str(part) for part in loc)
    if unknown:
        text = _unknown_key(key, root)
    else:
        message = first["msg"].removeprefix("Value error, ")
        text = f"{key}: {message}" if key else message
        if key and not isinstance(first["input"], (dict, list)):
            text += f", got {first['input']!r}"
    more = len({_strip_union(root, problem["loc"]) for problem in problems}) - 1
    return f"config: {text}" + (f" (and {more} more)" if more else "")


def _strip_union(root: type[BaseModel], loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without pydantic's trailing names of union members (`training.gamma.float`)."""
    while loc and str(loc[-1]) not in _field_names(root, loc[:-1]) and _field_names(root, loc[:-2]):
        loc = loc[:-1]
    return loc


def apply_override(values: dict[str, Any], override: str, root: type[BaseModel]) -> None:
    """Set one `a.b=c` in nested plain values; the value is read as YAML.

    Raises:
        ConfigError: not KEY=VALUE, an unknown key, a section instead of a key, not YAML.
    """
    key, sep, text = override.partition("=")
    key = key.strip()
    if not sep or not key:
        raise ConfigError(f"config: an override reads KEY=VALUE, got {override!r}")
    node, parts = values, key.split(".")
    for part in parts[:-1]:
        if not isinstance(node.get(part), dict):
            raise ConfigError(f"config: {_unknown_key(key, root)}")
        node = node[part]
    if parts[-1] not in node:
        raise ConfigError(f"config: {_unknown_key(key, root)}")
    if isinstance(node[parts[-1]], dict):
        raise ConfigError(f"config: {key} is a section; set one of its keys, e.g. {key}.NAME=VALUE")
    try:
        node[parts[-1]] = _yaml_scalar(text)
    except yaml.YAMLError:
        raise ConfigError(f"config: cannot read the value of {override!r}") from None


def _yaml_scalar(text: str) -> Any:
    """A YAML value; also reads 1e-3, which YAML 1.1 takes for a string."""
    value = yaml.safe_load(text) if text.strip() else None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
