"""Train several models on the same rows, choose one by held-out rows, and make its run the run of the folder.

# Strategy: every candidate is a run of its own in a folder of its own, so that nothing here trains, resumes or scores
# anything itself. The record of the choice (`fl.runs.choice`) says what is finished. When it says which model was
# chosen, the files of that run move up into the folder, the manifest last: a folder with a manifest is a run, and from
# then on it is continued, loaded and reported as every other. A process that was killed at any moment continues here.

The rows that choose are those that thresholds and calibrations come from (`fl.data.held_out`): customers and weeks that
no candidate learned from, and never a row of the test. All candidates are measured on the same ones.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import average_precision_score

from fl.durable import locked, replace_durably
from fl.errors import MetricError, RunFolderError
from fl.learning.kinds import ModelKind
from fl.runs.candidates import Candidates
from fl.runs.choice import CANDIDATES, CHOICE, HeldOutFigures, ModelChoice, read_choice, write_choice
from fl.runs.config import config_to_toml
from fl.runs.experiment import Experiment, planned
from fl.runs.folder import read_config, refuse_used
from fl.runs.held_out import held_out_scores
from fl.runs.kinds import begun, resumed
from fl.runs.outline import Outline, outline
from fl.runs.plan import read_source
from fl.runs.playing import Progress, play_rounds
from fl.runs.scoring import load_model

if TYPE_CHECKING:
    from fl.runs.tree_outline import RandomTreeOutline, TreeOutline

LEAST_CHANCE = 1e-12  # a probability of 0 would make one wrong row cost everything
LOCK, MANIFEST = "choosing.lock", "manifest.json"


def begin_choosing(candidates: Candidates, path: Path) -> list[Outline | TreeOutline | RandomTreeOutline]:
    """Refuse what one of the candidates could not do, and write what is going to be tried into the folder `path`.

    Returns what each is going to do. Raises what `fl.runs.experiment.planned` does, before anything is trained, and
    `RunFolderError` for a used folder.
    """
    refuse_used(path)
    first, *_ = candidates.configs.values()
    source = read_source(first.data, first.seed)  # the same for all
    plans = [planned(config, source) for config in candidates.configs.values()]
    (path / CANDIDATES).mkdir(parents=True)
    for kind, config in candidates.configs.items():
        replace_durably(path / CANDIDATES / f"{kind}.toml", config_to_toml(config).encode())
    learned = max(plan.config.model.history_days for plan in plans)
    write_choice(path, ModelChoice(tuple(candidates.configs), candidates.left_out, learned))
    return [outline(plan) for plan in plans]


def is_choosing(path: Path) -> bool:
    """Whether models were tried in the folder `path` and the chosen one's run is not there yet."""
    return (path / CHOICE).exists() and not (path / MANIFEST).exists()


def finish_choosing(path: Path, tell: Progress) -> None:
    """Train the candidates that are not finished, choose, and move the chosen run's files up into the folder `path`.

    Raises `RunFolderError` for a damaged folder, or while another process works on it, and whatever training raises.
    """
    try:
        with locked(path / LOCK, wait=False):
            choice = read_choice(path)
            assert choice is not None
            for kind in choice.tried:
                if kind not in choice.figures:
                    choice = choice.measured(kind, _tried(path, kind, choice.learned_days, tell))
                    write_choice(path, choice)
            assert choice.chosen is not None
            _move_up(path / CANDIDATES / choice.chosen, path)
    except BlockingIOError as fault:
        raise RunFolderError(f"another process is working on {path}: wait until it ends") from fault


def _tried(path: Path, kind: ModelKind, learned_days: int, tell: Progress) -> HeldOutFigures:
    """Play the rounds of a candidate that are left, without its baselines, and measure its model."""
    where = path / CANDIDATES / kind
    if (where / MANIFEST).exists():
        experiment = resumed(where)
    else:
        (where / "config.toml").unlink(missing_ok=True)  # of a process that was killed before the manifest
        experiment = begun(read_config(path / CANDIDATES / f"{kind}.toml"), where)
    play_rounds(experiment, lambda what, done, total: tell(f"{kind}: {what}", done, total))
    return _measured(experiment, learned_days)


def _measured(experiment: Experiment, learned_days: int) -> HeldOutFigures:
    model = load_model(experiment.folder.path)
    parts = held_out_scores(experiment.plan.source, model, learned_days).values()
    label, score = (np.concatenate(each) for each in zip(*((p.label, p.score) for p in parts), strict=True))
    frauds = int(label.sum())
    if not 0 < frauds < len(label):
        raise MetricError(
            f"{frauds} frauds in {len(label)} held-out rows: --model auto chooses by average precision, which needs "
            "frauds and others; name one --model, or take a longer period"
        )
    assert model.calibration is not None
    chance = np.clip(model.calibration.of(score), LEAST_CHANCE, 1.0 - LEAST_CHANCE)
    loss = -float(np.mean(np.where(label == 1, np.log(chance), np.log1p(-chance))))
    return HeldOutFigures(float(average_precision_score(label, score)), loss, len(label), frauds)


def _move_up(run: Path, folder: Path) -> None:
    """Move the files of `run` into `folder`, the manifest last. What a killed process has moved is there already."""
    if (folder / MANIFEST).exists():
        return
    names = sorted(each.name for each in run.iterdir() if each.name not in ("lock", MANIFEST))
    for name in (*names, MANIFEST):
        os.replace(run / name, folder / name)
    shutil.rmtree(run)
