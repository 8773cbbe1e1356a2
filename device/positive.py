"""A number that has to be above 0, on the command line of a program."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """For argparse's `type`. An explicit 0 is no wish for the default."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return value
