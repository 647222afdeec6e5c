"""Which class plays a run: one that plays rounds, one that grows trees, or one that draws trees under privacy.

It imports the room of trees only for a run of trees, since that needs numba (extra `trees`).
"""

from __future__ import annotations

from pathlib import Path

from fl.runs.config import RunConfig
from fl.runs.experiment import Experiment
from fl.runs.folder import RunFolder


def begun(config: RunConfig, path: Path) -> Experiment:
    """A new run in the folder `path`. Raises as `Experiment.start`."""
    return _class_of(config).start(config, path)


def resumed(path: Path) -> Experiment:
    """The run in `path`, to be continued or read. Raises as `Experiment.resume`."""
    return _class_of(RunFolder.open(path).config).resume(path)


def _class_of(config: RunConfig) -> type[Experiment]:
    if config.model.kind == "trees" and config.privacy is not None:
        from fl.runs.random_tree_experiment import RandomTreeExperiment

        return RandomTreeExperiment
    if config.model.kind == "trees":
        from fl.runs.tree_experiment import TreeExperiment

        return TreeExperiment
    return Experiment
