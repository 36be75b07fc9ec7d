"""`python -m tests.parity PATH...`: recompute reference cases through the public classes.

Every `out/*` and `mid/*` tensor of a case (and its losses, gradients and traces) is recomputed and
compared; one line per tensor with the maximal absolute error, the error relative to the largest
expected value, and a verdict. Exit code 0 when everything agrees, 1 when something fails, 2 when
nothing was found.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import torch

from tests.parity import kinds
from tests.parity.case import Case, find_cases, load_case
from tests.parity.report import Report


def check_case(case: Case, report: Report) -> None:
    """Run the checker of the case's kind."""
    report.begin(case.name)
    report.write(f"{case.name} ({case.kind})")
    known = {module.name for module in pkgutil.iter_modules(kinds.__path__)}
    if case.kind not in known:
        report.failure(case.name, f"unknown kind {case.kind!r} (known: {', '.join(sorted(known))})")
        return
    checker = importlib.import_module(f"tests.parity.kinds.{case.kind}")
    try:
        checker.check(case, report)
    except Exception as error:  # one broken case must not hide the others
        report.failure(case.name, f"{type(error).__name__}: {error}")
    report.finish(case.required())


def main(arguments: list[str]) -> int:
    """Check all cases named on the command line."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    torch.manual_seed(0)
    report, count = Report(), 0
    try:
        for path in find_cases([Path(a) for a in arguments]):
            check_case(load_case(path), report)
            count += 1
    except (OSError, ValueError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    print(
        f"{count} cases: {report.passed} tensors agree, {report.failed} fail, "
        f"{report.deliberate_count} differ deliberately"
    )
    if count == 0:
        print("parity: no cases found", file=sys.stderr)
        return 2
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
