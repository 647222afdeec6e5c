"""Which class plays a run: one that plays rounds, or one that grows trees.

It imports the room of trees only for a run of trees, since that needs numba (extra `trees`).
"""

from __future__ import annotations

from pathlib import Path

from fl.learning.kinds import ModelKind
from fl.runs.config import RunConfig
from fl.runs.experiment import Experiment
from fl.runs.folder import RunFolder


def begun(config: RunConfig, path: Path) -> Experiment:
    """A new run in the folder `path`. Raises as `Experiment.start`."""
    return _class_of(config.model.kind).start(config, path)


def resumed(path: Path) -> Experiment:
    """The run in `path`, to be continued or read. Raises as `Experiment.resume`."""
    return _class_of(RunFolder.open(path).config.model.kind).resume(path)


def _class_of(kind: ModelKind) -> type[Experiment]:
    if kind == "trees":
        from fl.runs.tree_experiment import TreeExperiment

        return TreeExperiment
    return Experiment
