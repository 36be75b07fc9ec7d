"""`python -m epigraf` is the same as the command `epigraf`."""

from __future__ import annotations

from epigraf.cli.app import main

if __name__ == "__main__":
    main()
