"""Errors that a user can act on: one line that says what, where and what to do."""

from __future__ import annotations


class EpigrafError(Exception):
    """Base of every error that the command line shows as one line, without a traceback."""


class ConfigError(EpigrafError):
    """A configuration key, value or combination that cannot work."""


class DataError(EpigrafError):
    """A dataset or image that is missing, corrupt or inconsistent."""


class CheckpointError(EpigrafError):
    """A snapshot that is missing, truncated, foreign or from a newer version."""


class TrainingError(EpigrafError):
    """A run that cannot go on (non-finite losses, a folder that cannot be written, ...)."""
