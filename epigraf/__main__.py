"""The console script `epigraf`, and `python -m epigraf`, which is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; Ctrl-C ends in one line even while Python is still importing."""
    try:
        from epigraf.cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
