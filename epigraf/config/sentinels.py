"""The section `sentinels`: what watches a run, from where on it speaks up, and what it does."""

from __future__ import annotations

from enum import Enum

from pydantic import Field, field_validator

from epigraf.config.sections import Section


class SentinelAction(Enum):
    """What a raised sentinel does: nothing, a line in the log, the end of the run, or a return to
    the last good snapshot with a lower learning rate and new random numbers."""

    OFF = "off"
    WARN = "warn"
    STOP = "stop"
    ROLLBACK = "rollback"


class _Watch(Section):
    action: SentinelAction = SentinelAction.WARN

    @field_validator("action", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: object) -> object:
        """YAML 1.1 reads `off` as false."""
        return SentinelAction.OFF.value if value is False else value


class NonfiniteConfig(_Watch):
    """NaN or infinity: in a weight at the end of a tick, or in a loss or a gradient in `patience`
    steps in a row (one bad batch is survived: its gradients are cleaned)."""

    action: SentinelAction = SentinelAction.ROLLBACK
    patience: int = Field(default=8, ge=1)


class SentinelConfig(_Watch):
    """Raised when a value was beyond `threshold` `patience` times in a row."""

    threshold: float = Field(gt=0)
    patience: int = Field(ge=1)


class SentinelsConfig(Section):
    """All sentinels; none of this is in the official configuration.

    Numbers of a tick (logits, gradients, overpowering) are judged at every tick. Fakes (flatness,
    pose_leak, collapse) are rendered for it once in `probe_kimg` thousand images. Before
    `grace_kimg`, when fakes are grey and D is right about everything, only the first three are.
    """

    probe_kimg: float = Field(default=4.0, gt=0)
    grace_kimg: float = Field(default=50.0, ge=0)
    rollbacks: int = Field(default=3, ge=0)  # more of them end the run
    lr_factor: float = Field(default=0.5, gt=0, le=1)  # of both learning rates, at each rollback
    nonfinite: NonfiniteConfig = NonfiniteConfig()
    logits: SentinelConfig = SentinelConfig(threshold=50.0, patience=2)
    gradients: SentinelConfig = SentinelConfig(threshold=1000.0, patience=2)
    overpowering: SentinelConfig = SentinelConfig(threshold=0.95, patience=5)
    flatness: SentinelConfig = SentinelConfig(threshold=3.0, patience=3)
    pose_leak: SentinelConfig = SentinelConfig(threshold=0.5, patience=3)
    collapse: SentinelConfig = SentinelConfig(threshold=0.3, patience=3)
