"""placeholder"""
from protos.chip.core import Core
from protos.chip.program import Program


def verify(program: Program, core: Core) -> None:
    pass
