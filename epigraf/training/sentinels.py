"""Sentinels: what goes wrong in GAN training, noticed at the end of a tick, with the known remedy.

A sentinel has a threshold, a patience and an action in the section `sentinels` of the
configuration. It judges numbers that are the same on every rank, and changes nothing but the run's
strikes (`Counters.strikes`), so that a run with sentinels learns bit for bit what one without does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from epigraf.config import NonfiniteConfig, SentinelAction, SentinelConfig, SentinelsConfig
from epigraf.training.distributed import on_main
from epigraf.training.log import Numbers
from epigraf.training.probes import Probe, ask
from epigraf.training.state import Counters, State

ACTING = (SentinelAction.STOP, SentinelAction.ROLLBACK)
NONFINITE, WEIGHTS = "nonfinite", "weights"  # the second counts weights for the first
PROBED = ("flatness", "pose_leak", "collapse")


@dataclass(frozen=True)
class _Kind:
    """What a sentinel watches, which way is bad, whether it waits for `grace_kimg`, what helps."""

    what: str
    remedy: str
    low: bool = False
    waits: bool = True

    def is_beyond(self, value: float, threshold: float) -> bool:
        """A value that is a number; NaN is for the sentinel nonfinite."""
        return value < threshold if self.low else value > threshold


KINDS = {
    "logits": _Kind(
        "mean |logit| of D",
        "raise training.gamma or lower model.discriminator.optim.lr",
        waits=False,
    ),
    "gradients": _Kind(
        "norm of the gradients of G or D",
        "raise training.gamma, or set model.generator.optim.grad_clip and "
        "model.discriminator.optim.grad_clip",
        waits=False,
    ),
    "overpowering": _Kind(
        "share of images that D tells right",
        "augment (training.augment.mode=ada), raise training.gamma or lower "
        "model.discriminator.optim.lr",
    ),
    "flatness": _Kind(
        "depths that an object occupies (non-flatness score)",
        "tell D the camera (model.discriminator.camera_cond=true), condition G with swaps "
        "(model.generator.camera_cond=true), leave out a background model, check the poses "
        "(epigraf data check)",
        low=True,
    ),
    "pose_leak": _Kind(
        "change of an object with its conditioning camera",
        "keep model.generator.camera_cond_spoof_p at 0.5 or more, raise "
        "model.generator.camera_cond_drop_p",
    ),
    "collapse": _Kind(
        "distance between fakes relative to reals",
        "raise training.gamma, try training.loss=r3gan, compare within classes "
        "(training.group_labels=true)",
        low=True,
    ),
}
_NONFINITE_REMEDY = (
    "; raise training.gamma, lower model.generator.optim.lr and model.discriminator.optim.lr, or "
    "set their grad_clip"
)


@dataclass(frozen=True)
class Verdict:
    """A sentinel that was raised, or (with action OFF) stands down: what it does, what it says."""

    name: str
    action: SentinelAction
    text: str

    @property
    def line(self) -> str:
        """For the log."""
        return f"sentinel {self.name}: {self.text}"


class Sentinels:
    """All sentinels of a run.

    Args:
        cfg: thresholds, patience, actions.
        probe: what to render.
    """

    def __init__(self, cfg: SentinelsConfig, probe: Probe) -> None:
        self.cfg = cfg
        self._probe = probe

    def step(self, state: State, numbers: Numbers) -> list[Verdict]:
        """Judge the numbers of a step: losses and gradient norms that are not finite."""
        watched = (v for k, v in numbers.items() if k.endswith("/loss") or k.startswith("Gradient"))
        bad, patience = not all(map(math.isfinite, watched)), self.cfg.nonfinite.patience
        line = f"a loss or gradient is NaN or infinite, {patience} steps in a row"
        return self._strike(state.counters, NONFINITE, bad, patience, line + _NONFINITE_REMEDY)

    def tick(self, state: State, means: Numbers) -> tuple[Numbers, list[Verdict]]:
        """Judge a tick.

        Args:
            state: the run at its end, `tick_start` still that of its beginning.
            means: the mean of every number over it.
        Returns:
            (`Sentinels/NAME` for stats.jsonl and TensorBoard, what was raised).
        """
        counters = state.counters
        values = _numbers_of(means) | self._probed(state)
        bad = self._is_on(NONFINITE) and not weights_are_finite(state)
        line = "a weight is NaN or infinite" + _NONFINITE_REMEDY
        verdicts = self._strike(counters, WEIGHTS, bad, 1, line)
        waiting = counters.images_seen < self.cfg.grace_kimg * 1000
        for name, value in values.items():
            if not (math.isnan(value) or (waiting and KINDS[name].waits)):
                verdicts += self._judge(counters, name, value)
        row = {f"Sentinels/{name}": value for name, value in values.items()}
        return row | {"Sentinels/lr_scale": counters.lr_scale}, verdicts

    def is_good(self, state: State) -> bool:
        """Whether a snapshot of this moment is one to come back to: its weights are finite, and
        nothing is (or is about to be) raised that would end the run or roll it back."""
        acting = (self._action(name) in ACTING for name in state.counters.strikes)
        return not any(acting) and weights_are_finite(state)

    @property
    def wants_good(self) -> bool:
        """Whether any sentinel would look for a snapshot to come back to."""
        return any(self._action(name) in ACTING for name in (NONFINITE, *KINDS))

    def _action(self, name: str) -> SentinelAction:
        watch: SentinelConfig | NonfiniteConfig = getattr(
            self.cfg, NONFINITE if name == WEIGHTS else name
        )
        return watch.action

    def _is_on(self, name: str) -> bool:
        return self._action(name) is not SentinelAction.OFF

    def _probed(self, state: State) -> Numbers:
        """Answers of the averaged generator, once in `probe_kimg`; only those that are wanted."""
        counters, period = state.counters, self.cfg.probe_kimg * 1000
        due = counters.images_seen // period > counters.tick_start // period
        wanted = [name for name in PROBED if self._is_on(name)]
        if not (due and wanted):
            return {}
        answers = on_main(lambda: ask(state.ema, self._probe))  # one judge for all processes
        return {k: v for k, v in answers.items() if k in wanted}

    def _judge(self, counters: Counters, name: str, value: float) -> list[Verdict]:
        watch, kind = getattr(self.cfg, name), KINDS[name]
        beyond = kind.is_beyond(value, watch.threshold)
        often = f", {watch.patience} times in a row" if watch.patience > 1 else ""
        line = (
            f"{kind.what} {value:.3g}, {'below' if kind.low else 'above'} {watch.threshold:g}"
            f"{often}; {kind.remedy}"
        )
        return self._strike(counters, name, beyond, watch.patience, line)

    def _strike(
        self, counters: Counters, name: str, beyond: bool, patience: int, line: str
    ) -> list[Verdict]:
        """Count; speak when patience ends, and when all is well again after that."""
        if not self._is_on(name):
            counters.strikes.pop(name, None)
            return []
        strikes = counters.strikes.get(name, 0)
        if beyond:
            counters.strikes[name] = strikes + 1
            action = self._action(name)
            # a warning is said once; a run that goes on all the same was resumed with new actions
            raised = strikes + 1 >= patience if action in ACTING else strikes + 1 == patience
            return [Verdict(name, action, line)] if raised else []
        counters.strikes.pop(name, None)
        if strikes < patience:
            return []
        return [Verdict(name, SentinelAction.OFF, "all is well again")]


def _numbers_of(means: Numbers) -> Numbers:
    """The values of the sentinels that need no rendering, as far as the tick has their numbers."""
    scores = [abs(v) for k, v in means.items() if k.startswith("Loss/scores/")]
    norms = [means[k] for k in ("Gradient/Gmain", "Gradient/Dmain") if k in means]
    found: Numbers = {}
    if scores:
        found["logits"] = max(scores)
    if norms:
        found["gradients"] = max(norms)
    if {"Loss/signs/real", "Loss/signs/fake"} <= means.keys():
        found["overpowering"] = (2 + means["Loss/signs/real"] - means["Loss/signs/fake"]) / 4
    return found


def weights_are_finite(state: State) -> bool:
    """Whether every weight of G, D and the average is a number."""
    networks = (state.generator, state.discriminator, state.ema)
    return all(_all_finite(network.parameters()) for network in networks)


@torch.no_grad()
def _all_finite(tensors: Iterable[Tensor]) -> bool:
    norms = torch._foreach_norm(list(tensors))  # pyright: ignore[reportPrivateImportUsage]
    return bool(torch.stack(norms).isfinite().all())
