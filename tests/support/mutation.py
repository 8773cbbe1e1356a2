"""A module with one defect put into it on purpose: a test that does not find it proves nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """`module` with `new` in the place of `old`. Raises LookupError unless `old` stands in its text once: no failed check, which is what
    a mutation is for."""
    assert module.__file__ is not None
    text = Path(module.__file__).read_text()
    if text.count(old) != 1:
        raise LookupError(f"{old!r} stands {text.count(old)} times in {module.__name__}")
    name = f"mutated_{module.__name__.replace('.', '_')}"
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # dataclasses look their module up
    exec(compile(text.replace(old, new), f"{name}.py", "exec"), made.__dict__)
    return made
