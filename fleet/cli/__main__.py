"""`python -m fleet.cli`: the command, where no script is installed."""

from __future__ import annotations

from fleet.cli.main import run

if __name__ == "__main__":
    run()
