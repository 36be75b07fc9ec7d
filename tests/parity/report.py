"""Verdicts of the parity runner: one line per tensor and a total."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Report:
    """Collects comparisons of one run over many cases.

    A comparison passes when max|ours - expected| <= atol + rtol * max|expected|.
    """

    write: Callable[[str], None] = print
    passed: int = 0
    failed: int = 0
    deliberate_count: int = 0
    case: str = ""
    _seen: set[str] = field(default_factory=set)

    def begin(self, case: str) -> None:
        """Start a case."""
        self.case, self._seen = case, set()

    def compare(
        self, name: str, ours: Tensor, expected: Tensor, *, rtol: float = 1e-5, atol: float = 0.0
    ) -> bool:
        """Compare one tensor; the shapes must agree."""
        self._seen.add(name)
        ours, expected = ours.detach().double().cpu(), expected.detach().double().cpu()
        if ours.shape != expected.shape:
            shapes = f"shape {list(ours.shape)} instead of {list(expected.shape)}"
            return self._line(name, math.inf, math.inf, False, shapes)
        if expected.numel() == 0:
            return self._line(name, 0.0, 0.0, True)
        same_inf = (ours == expected) | (ours.isnan() & expected.isnan())
        difference = torch.where(same_inf, torch.zeros_like(ours), (ours - expected).abs())
        error = float(difference.max())
        scale = (
            float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 0.0
        )
        relative = error / scale if scale > 0 else error
        ok = error <= atol + rtol * scale  # False for NaN
        return self._line(name, error, relative, ok)

    def scalar(self, name: str, ours: float, expected: float, *, rtol: float = 1e-5) -> bool:
        """Compare one number."""
        return self.compare(
            name, torch.tensor(float(ours)), torch.tensor(float(expected)), rtol=rtol
        )

    def equal(self, name: str, ours: object, expected: object) -> bool:
        """Compare anything that must be exactly equal (names, counts, booleans)."""
        self._seen.add(name)
        ok = ours == expected
        return self._line(
            name, 0.0 if ok else math.inf, 0.0, ok, "" if ok else f"{ours} != {expected}"
        )

    def deliberate(self, name: str, reason: str) -> None:
        """Ours differs on purpose; docs/differences.md has the table."""
        self._seen.add(name)
        self.deliberate_count += 1
        self.write(f"  {name:<58} {'':>9} {'':>9}  deliberate: {reason}")

    def failure(self, name: str, reason: str) -> None:
        """Something that could not be computed at all."""
        self._seen.add(name)
        self._line(name, math.inf, math.inf, False, reason)

    def finish(self, required: set[str]) -> None:
        """End a case: what it requires and nobody compared is a failure."""
        for name in sorted(required - self._seen):
            self.failure(name, "never recomputed")

    def _line(self, name: str, error: float, relative: float, ok: bool, note: str = "") -> bool:
        self.passed += ok
        self.failed += not ok
        verdict = "ok" if ok else "FAIL"
        self.write(f"  {name:<58} {error:9.2e} {relative:9.2e}  {verdict} {note}".rstrip())
        return ok
