"""The files that say how a run's scores are used: calibration.json and thresholds.json.

    calibration.json   written when a run ends: how a score becomes a probability
    thresholds.json    written by `demos threshold`: from which score on a transaction is an alert

Neither holds a row. Both come from labels of all banks, outside every epsilon.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl import options
from fl.durable import replace_json
from fl.errors import MetricError, RunFolderError
from fl.learning.calibration import Calibration
from fl.learning.thresholds import Thresholds
from fl.runs.folder import RESTORE, bank_names, read_object

CALIBRATION, THRESHOLDS = "calibration.json", "thresholds.json"
CALIBRATION_FORMAT, THRESHOLDS_FORMAT = "calibration 1", "thresholds 1"


def write_calibration(run: Path, calibration: Calibration) -> None:
    """Write calibration.json of the run in folder `run`."""
    replace_json(run / CALIBRATION, {"format": CALIBRATION_FORMAT, **asdict(calibration)})


def write_thresholds(run: Path, chosen: Thresholds) -> None:
    """Write thresholds.json of the run in folder `run`."""
    content = {"rule": dict(chosen.rule), "shared": chosen.shared, "banks": dict(chosen.banks)}
    replace_json(run / THRESHOLDS, {"format": THRESHOLDS_FORMAT, **content})


def read_calibration(run: Path) -> Calibration | None:
    """The calibration of a run; None for a run of a version that wrote none. Raises `RunFolderError`."""
    path = run / CALIBRATION
    if not path.exists():
        return None
    about = _formatted(path, CALIBRATION_FORMAT)
    try:
        return Calibration(**about)
    except (TypeError, MetricError) as fault:
        raise RunFolderError(f"{path}: {fault}: {RESTORE}") from fault


def read_thresholds(run: Path) -> Thresholds | None:
    """The thresholds that were chosen for a run; None where nobody chose any. Raises `RunFolderError`."""
    path = run / THRESHOLDS
    if not path.exists():
        return None
    about, known = _formatted(path, THRESHOLDS_FORMAT), bank_names(run)
    again = "choose them again with: python -m demos threshold"
    banks, rule = about.get("banks"), about.get("rule")
    if set(about) != {"rule", "shared", "banks"} or not isinstance(banks, dict) or not isinstance(rule, dict):
        raise RunFolderError(f"{path}: expected rule, shared and banks, got {', '.join(about)}; {again} {run}")
    if unknown := [name for name in banks if name not in known]:
        raise RunFolderError(f"{path}: expected banks of this run ({', '.join(known)}), got {unknown[0]!r}; {again}")
    if strange := [name for name, value in rule.items() if not _is_plain(value)]:
        raise RunFolderError(f"{path}: rule.{strange[0]}: expected a word or a finite number; {again} {run}")
    try:
        shared = options.THRESHOLD.of(about["shared"])
        return Thresholds(shared, {name: options.THRESHOLD.of(value) for name, value in banks.items()}, rule)
    except options.Refused as fault:
        raise RunFolderError(f"{path}: {fault}; {again} {run}") from fault


def _is_plain(value: object) -> bool:
    """Whether a value of a rule is one that `write_thresholds` writes."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _formatted(path: Path, expected: str) -> dict[str, Any]:
    content = read_object(path)
    if (got := content.pop("format", None)) != expected:
        raise RunFolderError(f"{path}: expected format {expected!r}, got {got!r}: {RESTORE}")
    return content
