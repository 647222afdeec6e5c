"""A run of trees that is killed in a forked process in the middle of its sums, for tests of what a resumed run does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import in_a_child

from fl.runs import tree_experiment
from fl.runs.tree_experiment import TRAINING

Watch = Callable[[str, int, int], None]


def records(run: Path) -> list[dict[str, Any]]:
    """Of the sums that are on disk."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def killed(where: Path, play: Callable[[Watch], object], after: int, *, before_it_is_kept: bool) -> None:
    """A run in the folder `where` that is killed when so many sums are kept, or before the last of them is.

    `play`: trains it, and tells what is given to it.
    """

    def die(path: Path, content: bytes) -> None:
        if path.name == TRAINING and json.loads(content)["sums"] and len(records(where)) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(path, content)

    def watched(what: str, done: int, total: int) -> None:
        if what.startswith("growing") and done == after:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        if before_it_is_kept:
            pytest.MonkeyPatch().setattr(tree_experiment, "replace_durably", die)  # in the forked process alone
        play(watched)

    keep = tree_experiment.replace_durably
    assert in_a_child(work) == "", "the run ended before it was killed"
