"""Carry out one run from its configuration to its metrics: data, budget, rounds, model, baselines, result.

What it does: calls the parts in the order that the privacy promise needs, and keeps a run folder, so that a run that
was killed at any moment can continue.

A run that continues without differential privacy has the result of an uninterrupted run, bit for bit. With it, a round
whose spending was recorded and that did not finish is lost: the noise was calibrated to a number of rounds, so the run
ends with fewer rounds (`rounds_lost`), within its budget.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fl.counts.columns import SharedColumns, with_shared_columns
from fl.counts.entity_risk import read_episodes, write_episodes
from fl.counts.release import TOTALS, bank_salt, share_statistics
from fl.counts.settings import describe, key_slots
from fl.data.features import features_at_first
from fl.data.federation import (
    SIMULATED,
    BankData,
    Federation,
    PartitionedTable,
    description_of,
    federation_of,
    pooled_global,
)
from fl.errors import BudgetExhausted, RunFolderError
from fl.learning.evaluation import Evaluation, evaluate, require_measurable_split
from fl.learning.model import flatten, layers_of, layout, unflatten
from fl.learning.paired_gain import paired_gain
from fl.learning.training import pick_device
from fl.privacy.budget import BudgetLedger
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import State, affordable_rounds
from fl.rounds.attackers import STRENGTHS
from fl.rounds.limits import ResourceChoice
from fl.rounds.play import Progress, RoundRecord, Rounds, Schedule, Summation, play_rounds, trained_models
from fl.runs.baselines import Baseline, baselines
from fl.runs.budgets import (
    CountsPayment,
    dearest,
    ledgers_folder,
    open_ledgers,
    privacy_report,
    require_paid,
    trainings_paid,
)
from fl.runs.choice import read_choice
from fl.runs.config import RunConfig
from fl.runs.constants import constants_are_known, told_constants, with_constants
from fl.runs.folder import RunFolder, refuse_used
from fl.runs.held_out import calibrate, held_out_scores
from fl.runs.model_file import write_model
from fl.runs.noise import with_noise
from fl.runs.operating import read_calibration, write_calibration
from fl.runs.outline import Outline, outline
from fl.runs.overhead import over_limits, overhead
from fl.runs.plan import RunPlan, read_source
from fl.runs.refusals import require_possible
from fl.runs.risk import RiskOfParties
from fl.runs.risk_baselines import risk_baselines
from fl.runs.scoring import load_model
from fl.runs.verdict import ALONE, OWN_EVIDENCE, verdict
from fl.secure.robust import plain_sum_without, robust_plain_sum
from fl.secure.session import InProcessRounds, plain_sum

if TYPE_CHECKING:
    from fl.runs.tree_outline import RandomTreeOutline, TreeOutline


class Experiment:
    """A run in progress. Use `start` or `resume`, exhaust `rounds()` and `baselines()`, then read `result()`."""

    def __init__(self, folder: RunFolder, plan: RunPlan, federation: Federation) -> None:
        plan.require_calibrated()
        self.folder = folder
        self.plan = plan
        self.config = plan.config
        self._computed = federation  # with every column there is
        self.federation = self._local = federation.only(plan.own_names)
        self._statistics: dict[str, Any] | None = None
        self._parties: RiskOfParties | None = None  # where the model knows the risk of shared parties
        self._joined: Evaluation | None = None  # of the finished models
        self._device = pick_device(self.config.device)
        torch.set_num_threads(self.config.threads)
        self.finished, self._state, self._records = folder.last_round()
        self.ledgers: dict[str, BudgetLedger] = {}
        rounds = self.config.rounds
        if privacy := self.config.privacy:
            self.ledgers = open_ledgers(ledgers_folder(folder.path, privacy), privacy, plan.banks)
            require_paid(self.ledgers, self.folder.run_id, self._records)
            begun = self._begun()
            rounds = affordable_rounds(plan.algorithm.timetable, rounds, self.finished, begun, plan.trainings)
        self.schedule = plan.schedule(rounds)
        self._require_a_round()
        if self.config.statistics is None or (folder.path / "statistics" / TOTALS).exists():
            self._share_statistics()

    @property
    def rounds_lost(self) -> int:
        """Requested rounds that will not be played: their spending was recorded, and they were interrupted."""
        return self.config.rounds - self.schedule.rounds

    @property
    def parts_done(self) -> int:
        """Parts of the training that are on disk: rounds, trees, or levels of trees."""
        return self.finished

    @property
    def parts(self) -> int:
        """Parts of the whole training."""
        return self.config.rounds

    @classmethod
    def start(cls, config: RunConfig, path: Path) -> Experiment:
        """Read the data, refuse impossible settings before any spending, and make the run folder."""
        pick_device(config.device)
        refuse_used(path)
        source = read_source(config.data, config.seed)
        plan = planned(config, source)
        # Features need constants, and constants that banks compute together need a folder and ledgers.
        federation = None if source.table.schema.lacking("shared") else federation_of(source)
        run_id = f"{path.name}-{secrets.token_hex(4)}"
        folder = RunFolder.create(
            path, plan.config, run_id=run_id, description=description_of(source), features=plan.own_names
        )
        if plan.choice is not None:
            folder.write_json("resources.json", plan.choice.as_json())
        plan = _with_constants(plan, folder)
        return cls(folder, plan, federation_of(plan.source) if federation is None else federation)

    @classmethod
    def resume(cls, path: Path) -> Experiment:
        """Continue the run in `path` after its last finished round, or read the figures of a finished one."""
        folder = RunFolder.open(path)
        source = read_source(folder.config.data, folder.config.seed)
        if json.loads(json.dumps(description_of(source))) != folder.read_json("manifest.json")["data"]:
            embedded = folder.config.data.source == SIMULATED
            raise RunFolderError(
                f"{path}: expected the data, schema and partition of manifest.json, got changed ones: "
                "restore them, or start a new run"
                + ". It began with another version of fl, which makes other embedded data"
                * embedded
            )
        choice = None
        if folder.config.resources is not None:
            if not (chosen := folder.read_json("resources.json")):
                raise RunFolderError(f"{path} has no resources.json: the run has not played a round; start it anew")
            choice = ResourceChoice.from_json(chosen)
        names = folder.features()
        own = features_at_first(source.table.schema) if names is None else names
        plan = _with_constants(RunPlan(folder.config, source, choice, own), folder)
        return cls(folder, plan, federation_of(plan.source))

    @property
    def outline(self) -> Outline | TreeOutline | RandomTreeOutline:
        """What this run does, from its first round on."""
        return outline(self.plan)

    def rounds(self, progress: Progress | None = None) -> Iterator[RoundRecord]:
        """Play the remaining rounds; each is on disk when it is yielded. Then write the model and its metrics."""
        with self.folder.alone():
            self.folder.drop_interrupted(self.finished)
            if self._will_spend_here:
                self.folder.require_original()
            self._share_statistics()
            for record, state in self._play(progress):
                line = {**record.as_json(), **self._spent()}
                if self.plan.choice is not None:
                    line["over_limits"] = list(over_limits(self.plan.choice, record))
                self.folder.finish_round(record.number, line, state)
                self.finished, self._state = record.number, state
                self._records.append({"round": record.number, **line})
                yield record
            # Lost attempts were recorded as spending, too: the run may have ended before its last round.
            self.schedule = replace(self.schedule, rounds=self.finished)
            self._require_a_round()
            self._finish()

    def _play(self, progress: Progress | None) -> Iterator[tuple[RoundRecord, State]]:
        pay, afford = (self._pay, self._afford) if self.ledgers else (None, None)
        rounds = self._rounds(self.schedule, self.plan.own_algorithm, self._aggregation())
        return play_rounds(rounds, finished=self.finished, state=self._state, pay=pay, afford=afford, progress=progress)

    def _rounds(
        self,
        schedule: Schedule,
        algorithm: FedAvg,
        aggregate: Summation,
        banks: Sequence[BankData] | None = None,
    ) -> Rounds:
        """`banks`: other rows of the same banks; None: those of the run."""
        plan = self.plan
        return Rounds(
            self.federation.banks if banks is None else banks,
            schedule,
            algorithm,
            aggregate,
            clip=self.config.aggregation.clip,
            device=self._device,
            quorum=plan.quorum,
            dropouts=plan.dropouts,
            compression=plan.compression,
            at_once=plan.at_once,
            attackers=plan.attackers,
        )

    def models(self) -> list[nn.Module]:
        """The model that each bank scores with after the last finished round.

        The models have the order of the federation's banks. They are the same object if all banks have the same model.
        """
        rounds = self._rounds(self.schedule, self.plan.own_algorithm, self._in_plain_sight)
        return rounds.models(rounds.begin() if self._state is None else self._state)

    def baseline_names(self) -> tuple[str, ...]:
        """Names of the baselines that `baselines` will yield."""
        return tuple(self._planned_baselines()) if self.config.with_baselines else ()

    def baselines(self) -> Iterator[str]:
        """Train and measure the baselines that are not finished.

        Yields the name of each when its metrics are on disk.
        """
        if not self.config.with_baselines:
            return
        with self.folder.alone():
            done = self.folder.read_json("baselines.json")
            for name, train in self._planned_baselines().items():
                if name not in done:
                    evaluation = train()
                    done[name] = evaluation.as_json()
                    if name in ALONE:
                        joined = self._as_members_score()
                        done[name]["gain_of_joining"] = paired_gain(joined.scored, evaluation.scored).as_json()
                    self.folder.write_json("baselines.json", done)
                yield name

    def result(self) -> dict[str, Any]:
        """The content of `train --json`, also written to result.json."""
        result = {
            "run_dir": str(self.folder.path),
            "device": self.config.device,
            "aggregation": self.config.aggregation.mode,
            "algorithm": self.config.algorithm.name,
            "model": self.config.model.kind,
            "words": asdict(self.federation.schema.words),
            "banks": len(self.plan.banks),
            "rounds": self.finished,
            "rounds_lost": self.rounds_lost,
            "parameters": self.plan.model.length,
            "metrics": self.folder.read_json("metrics.json"),
            "privacy": privacy_report(self.config.privacy, self.ledgers, by_risk=self.config.model.inputs == "risk"),
            "statistics": self._statistics,
            "constants": told_constants(self.config, self.folder.path),
            "baselines": self.folder.read_json("baselines.json"),
            "resources": None if self.plan.choice is None else self.plan.choice.as_json(),
            "overhead": overhead(self._records),
            "robust": self._left_out_by_rule(),
            "attack": self._attack(),
            "choice": None if (choice := read_choice(self.folder.path)) is None else choice.as_json(),
            **self._about_model(),
        }
        calibration = read_calibration(self.folder.path)
        result["calibration"] = None if calibration is None else asdict(calibration)
        gain, result["verdict"] = verdict(result)
        result["gain_over_alone"] = gain
        self.folder.write_json("result.json", result)
        return result

    def _about_model(self) -> dict[str, Any]:
        """What a run of another kind says of its model, in place of and beside the fields of every run."""
        return {}

    def _aggregation(self) -> Summation:
        """The function that averages updates: plain, encrypted, or encrypted with every bank's noise in the sum."""
        plan, settings = self.plan, self.config.aggregation
        if settings.mode == "plain":
            return self._in_plain_sight
        if plan.joint_noise is not None:
            return partial(plan.joint_noise.average, engine=settings.engine)
        rounds = InProcessRounds(
            plan.banks,
            clip=settings.clip,
            quorum=plan.quorum,
            largest=plan.algorithm.timetable.largest,
            max_weight=plan.algorithm.max_weight,
            engine=settings.engine,
            chunk=None if plan.choice is None else plan.choice.chunk,
            # Each retry of a lost round trains from the same model again, with other members. Without differential
            # privacy, setting `retries` is the consent to so many; with it, new noise covers them.
            model_repeats=plan.dropouts.retries if self.config.privacy is None else None,
            device=None if self._device.type == "cpu" else str(self._device),
            rule=None if self.config.robust is None else self.config.robust.asked,
        )
        return lambda joined: rounds.average(joined, plan.compression.bits_of(joined.number))

    def _planned_baselines(self) -> dict[str, Baseline]:
        without_privacy = self.plan.without_privacy(self.schedule)
        everything = partial(pooled_global, self.plan.source)
        if self._parties is not None:
            planned = risk_baselines(
                self.plan,
                self._parties,
                everything,
                without_privacy,
                device=self._device,
                plainly=self.models if self._is_its_own_plain_run else lambda: self._played_plainly(self.schedule),
                known=self.federation.banks,
            )
            return planned | self._attack_baselines()
        planned = baselines(
            self.federation,
            self._local,
            everything,
            without_privacy,
            private=self.config.privacy is not None,
            device=self._device,
            play=self._played_plainly,
            own=self.models if self._is_its_own_plain_run else None,
        )
        return planned | self._attack_baselines()

    def _attack_baselines(self) -> dict[str, Baseline]:
        """The same rounds under attack without the rule, and without the attackers."""
        if self.config.attack is None:
            return {}
        absent = partial(plain_sum_without, banks=frozenset(self.plan.attacking), clip=self.config.aggregation.clip)
        planned: dict[str, Baseline] = {"without_attackers": lambda: self._averaged_by(absent)}
        if self.config.robust is not None:
            plain = partial(plain_sum, clip=self.config.aggregation.clip)
            planned["undefended"] = lambda: self._averaged_by(plain)
        return planned

    def _averaged_by(self, aggregate: Summation) -> Evaluation:
        """The run's own rounds again, with this average; in no ledger."""
        rounds = self._rounds(self.schedule, self.plan.algorithm, aggregate)
        return evaluate(self.federation.banks, trained_models(rounds), self._device)

    @property
    def _is_its_own_plain_run(self) -> bool:
        """Whether the banks moved in every round by the very numbers that plain sums have: the same run."""
        return bool(self._records) and all(record.get("as_in_plain_sight") is True for record in self._records)

    def _played_plainly(self, schedule: Schedule) -> list[nn.Module]:
        """Each bank's model after `schedule` without encryption; in no ledger."""
        algorithm = self.plan.own_algorithm if schedule is self.schedule else self.plan.algorithm
        return trained_models(self._rounds(schedule, algorithm, self._in_plain_sight))

    @property
    def _in_plain_sight(self) -> Summation:
        clip, robust = self.config.aggregation.clip, self.config.robust
        if robust is None:
            return partial(plain_sum, clip=clip)
        return partial(robust_plain_sum, clip=clip, settings=robust)

    def _left_out_by_rule(self) -> dict[str, Any] | None:
        """The rule, and in how many rounds it left each bank out; no score. None without a rule."""
        robust = self.config.robust
        if robust is None:
            return None
        times = {bank: sum(bank in record["rejected"] for record in self._records) for bank in self.plan.banks}
        return {"rule": robust.rule, "byzantine": robust.byzantine, "rejected": {k: v for k, v in times.items() if v}}

    def _attack(self) -> dict[str, Any] | None:
        """What the simulated attackers did, and who they were; None without any."""
        attack = self.config.attack
        if attack is None:
            return None
        return {"name": attack.name, "strength": STRENGTHS[attack.name], "attackers": list(self.plan.attacking)}

    def _begun(self) -> dict[int, int]:
        """Trainings of this run that each bank's ledger holds and that cannot be continued, by position."""
        return {i: trainings_paid(ledger, self.folder.run_id) for i, ledger in enumerate(self.ledgers.values())}

    def _afford(self, banks: Sequence[str]) -> bool:
        """Whether each of these banks has trained less often than the noise was calibrated to."""
        return all(trainings_paid(self.ledgers[bank], self.folder.run_id) < self.plan.trainings for bank in banks)

    def _share_statistics(self) -> None:
        """Make the run's release of counts once, and add its columns to every bank's rows."""
        settings, sharing, source = self.config.statistics, self.plan.sharing, self.plan.source
        scale, days = self.config.scale, self.config.model.history_days
        if settings is None or sharing is None:
            if self.config.model.inputs == "risk" and self._parties is None:
                self._know_risk(RiskOfParties.of(source, self._computed, None, scale, learns_from=days))
            return
        if self._statistics is not None:
            return
        folder = self.folder.path / "statistics"
        keys = key_slots(source, settings, bank_salt(folder))
        entry, privacy = sharing.entry, self.config.privacy
        payment = None if entry is None else CountsPayment(self.ledgers, self.folder.run_id, entry)
        tables = [(name, source.table.take(rows)) for name, rows, _ in source.banks]
        engine = self.config.aggregation.engine
        released = share_statistics(tables, sharing, keys, folder, payment=payment, engine=engine)
        self._statistics = describe(released, keys, None if privacy is None else privacy.delta)
        if self.config.model.inputs == "own":
            columns = SharedColumns(source.table.schema, keys, released.totals)
            shared = with_shared_columns(self._computed, source.table, columns)
            self.federation = shared.only(self.plan.feature_names)
            return
        episodes = read_episodes(folder)
        shared_counts = (released.totals, keys)
        parties = RiskOfParties.of(
            source,
            self._computed,
            shared_counts,
            scale,
            episodes,
            learns_from=days,
            windows=self.config.windows_beside_risk,
        )
        assert parties.risk is not None
        if episodes is None:
            write_episodes(folder, parties.risk.episodes)
        self._statistics["episodes"] = {kind: asdict(each) for kind, each in parties.risk.episodes.items()}
        self._know_risk(parties)

    def _know_risk(self, parties: RiskOfParties) -> None:
        self._parties = parties
        self.federation = replace(self._local, banks=parties.released, feature_names=self.plan.feature_names)

    def _require_a_round(self) -> None:
        if self.rounds_lost and self.schedule.rounds < 1:
            raise BudgetExhausted(
                f"{self.folder.path}: every round was recorded as spending and interrupted; the budget is spent and "
                "there is no model: start a new run with a larger --epsilon"
            )

    @property
    def _will_spend_here(self) -> bool:
        """Whether a release remains that ledgers in this folder will record."""
        privacy, unshared = self.config.privacy, self.config.statistics is not None and self._statistics is None
        if privacy is None or privacy.budget_dir is not None:
            return False
        return unshared or self.finished < self.schedule.rounds

    def _pay(self, bank: str, number: int) -> None:
        assert self.plan.round_cost is not None
        self.ledgers[bank].spend(self.plan.round_cost, run=self.folder.run_id, round_number=number)

    def _spent(self) -> dict[str, float | str | None]:
        """The largest spend of a bank, and the accountant that counted it."""
        if not self.ledgers:
            return {"epsilon": None}
        epsilon, accountant = dearest(self.ledgers)
        return {"epsilon": epsilon, "accountant": accountant}

    def _finish(self) -> None:
        """Measure the final models and write the files for scoring: the common model, and each bank's own head."""
        banks, names = self.federation.banks, self.federation.feature_names
        models = self.models()
        figures = self._measured(models)
        common = self.schedule.first_model(len(names))
        state = self.plan.own_algorithm.begin(flatten(common)) if self._state is None else self._state
        unflatten(common, state.model)
        personal: Sequence[str] = ()
        own = ~self.plan.own_algorithm.travels(len(state.model))
        if own.any():
            personal = layers_of(layout(common), own)
            for position, bank in enumerate(banks):
                head = self.plan.own_algorithm.scores_with(state, position)[own]
                self.folder.write_head(bank.name, head)
        for name, constants in self.plan.source.constants_at_banks().items():
            self.folder.write_own_constants(name, constants)
        threshold, schema = figures.mean["threshold"], self.federation.schema
        write_model(self.folder.path, common, schema, names, threshold, personal)
        rows = held_out_scores(self.plan.source, load_model(self.folder.path), self.config.model.history_days)
        write_calibration(self.folder.path, calibrate(rows, self.config.training.pos_weight))

    def _measured(self, models: Sequence[nn.Module]) -> Evaluation:
        """The figures of the finished models, one per bank, which are written to metrics.json."""
        banks = self.federation.banks
        figures = self._joined = evaluate(banks, models, self._device)
        measured: dict[str, Any] = {**figures.as_json(), OWN_EVIDENCE: None}
        if self._parties is not None:
            # The same models and a bank's own labels, which no epsilon covers.
            self._joined = evaluate(self._parties.with_evidence(banks), models, self._device)
            measured[OWN_EVIDENCE] = self._joined.as_json()
        self.folder.write_json("metrics.json", measured)
        return figures

    def _as_members_score(self) -> Evaluation:
        """The figures of banks that use all that they know: what is compared with staying alone."""
        if self._joined is None:
            banks, models = self.federation.banks, self.models()
            known = banks if self._parties is None else self._parties.with_evidence(banks)
            self._joined = evaluate(known, models, self._device)
        return self._joined


def planned(config: RunConfig, source: PartitionedTable) -> RunPlan:
    """The plan of a new run. Refuses settings that are impossible, and sums that cannot be encrypted, before any
    spending and before there is a folder.
    """
    require_possible(config, len(source.banks))
    require_measurable_split(source)
    plan = with_noise(RunPlan.new(config, source)).with_limits()
    outline(plan)
    return plan


def _with_constants(plan: RunPlan, folder: RunFolder) -> RunPlan:
    """The plan with the constants that its banks compute together, once; `plan` where its schema lacks none."""
    if not plan.source.table.schema.lacking("shared"):
        return plan
    plan.require_calibrated()
    # Reading what an earlier round gave takes no lock, as reading a run never does.
    with nullcontext() if constants_are_known(folder.path) else folder.alone():
        source = with_constants(plan.config, plan.source, folder)
    return replace(plan, source=source)
