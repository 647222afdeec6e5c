"""The record of a choice among models in a run's folder: what was tried, how good each was, which was taken.

    choice.json            which models are tried, their figures on held-out rows, and the one that was chosen
    candidates/KIND.toml   the configuration of each
    candidates/KIND/       the run of each that was not chosen; the chosen one's files are in the folder above

It holds no row, and its figures come from labels of all banks, outside every epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

from fl import options
from fl.durable import replace_json
from fl.errors import FederationError, RunFolderError
from fl.learning.kinds import ModelKind
from fl.runs.folder import RESTORE, read_object

CHOICE, CANDIDATES = "choice.json", "candidates"
FORMAT = "choice 1"


@dataclass(frozen=True)
class HeldOutFigures:
    """Of one model on held-out rows, of which there are `rows` with `frauds`.

    `log_loss`: nats a row, of calibrated probabilities.
    """

    average_precision: Annotated[float, options.PROBABILITY]
    log_loss: Annotated[float, options.Real(0, 100, "nats a row")]
    rows: Annotated[int, options.COUNT]
    frauds: Annotated[int, options.COUNT]

    def __post_init__(self) -> None:
        options.check(self, RunFolderError)


@dataclass(frozen=True)
class ModelChoice:
    """`tried`: kinds of model, in the order in which ties are decided. `left_out`: why another is not tried.

    `figures`: of those that are finished. `chosen`: None until all are. `learned_days`: the longest history that one of
    them learns from; no row of it is held out.
    """

    tried: tuple[ModelKind, ...]
    left_out: Mapping[ModelKind, str]
    learned_days: Annotated[int, options.HISTORY_DAYS] = 0
    figures: Mapping[ModelKind, HeldOutFigures] = field(default_factory=dict)
    chosen: ModelKind | None = None

    def __post_init__(self) -> None:
        options.check(self, RunFolderError)
        kinds = get_args(ModelKind)
        named = {*self.tried, *self.left_out, *self.figures, *([] if self.chosen is None else [self.chosen])}
        if not self.tried or len(set(self.tried)) != len(self.tried) or not named <= set(kinds):
            raise RunFolderError(f"expected models of {', '.join(kinds)}, each once, got {', '.join(map(str, named))}")
        if not set(self.figures) <= set(self.tried) or not {self.chosen} <= {None, *self.figures}:
            raise RunFolderError("expected figures of models that were tried, and the choice of one with figures")

    def measured(self, kind: ModelKind, figures: HeldOutFigures) -> ModelChoice:
        """With the figures of one more model; with the choice, when they are the last."""
        known = {**self.figures, kind: figures}
        if set(known) != set(self.tried):
            return replace(self, figures=known)
        best = max(self.tried, key=lambda each: known[each].average_precision)  # of equal ones the first
        return replace(self, figures=known, chosen=best)

    def as_json(self) -> dict[str, Any]:
        """What stands in choice.json and in the result of the run."""
        return {"format": FORMAT, **asdict(self), "tried": list(self.tried)}


def write_choice(run: Path, choice: ModelChoice) -> None:
    """Write choice.json into the folder `run`."""
    replace_json(run / CHOICE, choice.as_json())


def read_choice(run: Path) -> ModelChoice | None:
    """The choice in the folder `run`; None where one model was named. Raises `RunFolderError` for a damaged file."""
    path = run / CHOICE
    if not path.exists():
        return None
    content = read_object(path)
    try:
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"expected format {FORMAT!r}")
        figures = {kind: HeldOutFigures(**each) for kind, each in content.pop("figures").items()}
        left_out = {kind: options.Text().of(why) for kind, why in content.pop("left_out").items()}
        return ModelChoice(tuple(content.pop("tried")), left_out, figures=figures, **content)
    except (TypeError, ValueError, KeyError, AttributeError, FederationError) as fault:
        raise RunFolderError(f"{path}: {fault}: {RESTORE}") from fault
