"""Federated fraud detection: banks train one model together and show each other nothing but an encrypted sum.

    run = fl.train("transactions.csv", schema="schema.toml", epsilon=3)
    run.metrics["average_precision"]                    # on the test days
    run.score(frame)                                    # for each row of a pandas frame: higher is more suspicious
    run = fl.load("runs/NAME")                          # a run that is finished

docs/training.md says what a run does; `help(fl.train)` has its arguments.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl.runs.api import Run, load, resume, train

__all__ = ["Run", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    """The public names, loaded on first use, so that `import fl` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'fl' has no attribute {name!r}")
    value = getattr(importlib.import_module("fl.runs.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
