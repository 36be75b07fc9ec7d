"""The suites by name, and how one is run: rows are on disk as soon as their case is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from epigraf.benchmarks import (
    bench_activation,
    bench_composite,
    bench_decoder,
    bench_importance,
    bench_mesh,
    bench_occupancy,
    bench_random,
    bench_rays,
    bench_render,
    bench_resample,
    bench_scaling,
    bench_step,
    bench_triplane,
    bench_winograd,
    machine,
)
from epigraf.benchmarks.result import Result, write_result
from epigraf.benchmarks.runner import Announce, Case, Row, Settings, measure

MACHINE_ROUNDS = 5
OPS = (
    bench_triplane, bench_decoder, bench_composite, bench_importance, bench_random, bench_rays,
    bench_winograd, bench_activation, bench_resample,
)  # fmt: skip

Measure = Callable[[Settings, Announce], Iterator[list[Row]]]


@dataclass(frozen=True)
class Suite:
    """Cases and the rounds that they take unless told otherwise."""

    cases: Callable[[Settings], Iterator[Case]]
    rounds: int

    def __call__(self, settings: Settings, announce: Announce) -> Iterator[list[Row]]:
        return measure(self.cases(settings), settings, self.rounds, announce)


def _ops(settings: Settings) -> Iterator[Case]:
    return chain.from_iterable(op.cases(settings) for op in OPS)


SUITES: dict[str, Measure] = {
    "ops": Suite(_ops, rounds=10),
    "render": Suite(bench_render.cases, rounds=10),
    "step": bench_step.measure,
    "occupancy": Suite(bench_occupancy.cases, rounds=5),
    "mesh": Suite(bench_mesh.cases, rounds=bench_mesh.ROUNDS),
    "scaling": Suite(bench_scaling.cases, rounds=7),
}


def fill(result: Result, path: Path, settings: Settings, announce: Announce) -> None:
    """Measure the suite of a new result into it and its file, beginning with the machine itself.

    Whatever stops it (Ctrl-C above all), both hold the cases measured so far.

    Raises:
        EpigrafError: no case is called like a word of `settings.only`.
    """
    for rows in SUITES[result.suite](settings, announce):
        if not result.rows:
            result.rows += _machine_rows(settings, announce)
        result.rows += rows
        write_result(result, path)
    result.complete = True
    write_result(result, path)


def _machine_rows(settings: Settings, announce: Announce) -> list[Row]:
    plain = Settings(settings.threads, settings.device, settings.rounds)
    cases = machine.cases(settings.device, settings.quick)
    return [row for rows in measure(cases, plain, MACHINE_ROUNDS, announce) for row in rows]
