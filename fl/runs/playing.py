"""Play an experiment to its end: its rounds or trees, its baselines, its result; and tell how far it is."""

from __future__ import annotations

from collections.abc import Callable

from fl.plural import plural
from fl.runs.baselines import parts_of
from fl.runs.experiment import Experiment
from fl.trees.settings import TreeSettings

Progress = Callable[[str, int, int], None]  # (activity, finished steps, all steps)


def play_to_the_end(experiment: Experiment, tell: Progress) -> None:
    """Play what is left of `experiment`, with its baselines, and write its result."""
    play_rounds(experiment, tell)
    parts = parts_of(experiment.baseline_names(), len(experiment.federation.banks))
    done, total = 0, sum(parts.values())
    if parts:
        tell("baselines", 0, total)
    for name in experiment.baselines():
        done += parts[name]
        tell("baselines", done, total)
    experiment.result()


def play_rounds(experiment: Experiment, tell: Progress) -> None:
    """Play the remaining rounds, or grow the remaining trees, and write the model."""
    if experiment.config.trees is not None:
        _grow_trees(experiment, experiment.config.trees, tell)
        return
    planned = experiment.config.rounds
    numbers = range(experiment.finished + 1, planned + 1)
    trainings = sum(len(experiment.plan.algorithm.timetable.seats(number)) for number in numbers)
    what, done = f"training, {plural(planned, 'round')} at {len(experiment.federation.banks)} banks", 0

    def bank_done(_: str) -> None:
        nonlocal done
        if done < trainings:  # a lost round is trained again
            done += 1
            tell(what, done, trainings)

    if trainings:
        tell(what, 0, trainings)
    for _ in experiment.rounds(bank_done):
        pass


def _grow_trees(experiment: Experiment, settings: TreeSettings, tell: Progress) -> None:
    """Parts are levels of trees, or random trees. Those of an earlier process do not count: they took no time now."""
    trees, banks = plural(settings.trees, "tree"), len(experiment.federation.banks)
    what = f"growing {trees} of depth {settings.depth} at {banks} banks"
    before, total = experiment.parts_done, experiment.parts
    if before < total:
        tell(what, 0, total - before)
    for _ in experiment.rounds():
        tell(what, experiment.parts_done - before, total - before)
