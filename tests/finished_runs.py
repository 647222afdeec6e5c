"""Small finished runs for tests that look at one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fl.data.simulate import Simulation, simulate
from fl.runs.config import AggregationSettings, DataSettings, RunConfig
from fl.runs.experiment import Experiment
from fl.runs.styles import OPEN


def open_config(data: DataSettings, *, rounds: int = 3, seed: int = 0, baselines: bool = False) -> RunConfig:
    """A run without privacy whose averages are taken in plain sight: the quickest there is."""
    training = replace(OPEN.training, epochs=2)
    return RunConfig(
        seed=seed,
        rounds=rounds,
        device="cpu",
        threads=1,
        with_baselines=baselines,
        data=data,
        model=OPEN.model,
        training=training,
        aggregation=AggregationSettings("plain"),
        privacy=None,
        baseline_model=OPEN.model,
        baseline_training=training,
    )


def train(config: RunConfig, run: Path) -> Path:
    """The folder `run`, of a run that is finished."""
    experiment = Experiment.start(config, run)
    for _ in experiment.rounds():
        pass
    for _ in experiment.baselines():
        pass
    experiment.result()
    return run


def simulated_csv(simulation: Simulation, path: Path) -> Path:
    simulate(simulation).to_csv(path, index=False)
    return path


def played(experiment: Experiment, rounds: int | None = None) -> Experiment:
    """The run after so many of its rounds, as if it had been killed then; all of them if None."""
    going = experiment.rounds()
    for count, _ in enumerate(going, start=1):
        if count == rounds:
            break
    going.close()  # type: ignore[attr-defined]  # a generator
    return experiment
