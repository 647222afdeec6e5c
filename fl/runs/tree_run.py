"""What a run of learned trees and one of random trees have in common: columns, the finished model, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import nn

from fl.counts.risk_columns import RISK, columns_beside_risk
from fl.data.federation import BankData, Federation
from fl.learning.evaluation import Evaluation, evaluate
from fl.runs.experiment import Experiment
from fl.runs.folder import RunFolder
from fl.runs.held_out import calibrate, held_out_scores
from fl.runs.model_file import write_model
from fl.runs.operating import write_calibration
from fl.runs.plan import RunPlan
from fl.runs.scoring import load_model
from fl.runs.tree_baselines import grown_in_one_place
from fl.runs.tree_columns import TreeColumns
from fl.runs.tree_module import TreeScores
from fl.trees.settings import TreeSettings


class TreeRun(Experiment):
    """A run in progress, as `Experiment`, that ends with one model of trees for all banks."""

    def __init__(self, folder: RunFolder, plan: RunPlan, federation: Federation) -> None:
        assert plan.config.trees is not None
        self.settings: TreeSettings = plan.config.trees
        super().__init__(folder, plan, federation)

    @cached_property
    def columns(self) -> TreeColumns:
        """What the trees see of a row."""
        schema, linked = self.plan.source.table.schema, self.config.model.inputs == "risk"
        return TreeColumns.of(schema, self.plan.feature_names, linked=linked)

    @property
    def module(self) -> TreeScores:
        """The finished trees. Raises `RunFolderError` before they are."""
        raise NotImplementedError

    def models(self) -> list[nn.Module]:
        """The trees, once for each bank."""
        return [self.module] * len(self.plan.banks)

    def _finish(self) -> None:
        """Measure the trees and write the files for scoring."""
        names, figures = self.federation.feature_names, self._measured(self.models())
        for name, constants in self.plan.source.constants_at_banks().items():
            self.folder.write_own_constants(name, constants)
        write_model(self.folder.path, self.module, self.federation.schema, names, figures.mean["threshold"])
        model, days = load_model(self.folder.path), self.config.model.history_days
        rows = held_out_scores(self.plan.source, model, days)
        write_calibration(self.folder.path, calibrate(rows, self.settings.class_weight))

    def _alone_inside_the_link(self, banks: Sequence[BankData], settings: TreeSettings) -> Evaluation:
        """Each bank's own trees on its own rows, whose last input is the risk that the bank knows by itself."""
        schema = self.plan.source.table.schema
        columns = TreeColumns.of(schema, (*columns_beside_risk(schema, windows=True), RISK), linked=True)
        grown = [grown_in_one_place(bank, columns, settings) for bank in banks]
        return evaluate(banks, [TreeScores(trees, columns) for trees in grown], self._device)
