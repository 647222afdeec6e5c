"""Build the configuration of a run from the options that a person gives.

What it does: `configuration` sets each given option (`fl.runs.train_options`) in a base configuration: that of a file,
or the defaults for the requested privacy (`fl.runs.styles`).

What it leaves to others: ranges (each settings class checks its own), and settings that contradict the data.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fl import options
from fl.counts.settings import StatisticsSettings, default_settings
from fl.data.federation import resolve_schema
from fl.errors import BudgetError, FederationError, OptionError
from fl.learning.kinds import ModelKind
from fl.learning.private_size import LONGEST_STEP, affords_network, own_steps
from fl.rounds.algorithms.settings import AlgorithmSettings, ParticipationSettings
from fl.rounds.attackers import AttackSettings
from fl.rounds.compression import CompressionSettings
from fl.rounds.limits import ResourceSettings
from fl.runs.config import AggregationSettings, ConstantsSettings, DataSettings, PrivacySettings, RunConfig
from fl.runs.refusals import OWN_WINDOWS
from fl.runs.styles import OPEN, declared_rows, private_defaults, share_of_counts, style_of, tree_defaults
from fl.runs.train_options import TRAIN_OPTIONS, flag
from fl.secure.rule_settings import RobustSettings
from fl.trees.settings import TreeSettings

AUTO = "auto"  # as --model: `fl.runs.candidates`
# Values of options of the network that say what the noisy-or model does as well.
OF_BOTH = ("row", "fedavg", options.NONE)
# Options that mean nothing to random trees: they are about learned splits, or about other models under privacy.
NOT_OF_RANDOM_TREES = (
    "class_weight",
    "least_rows",
    "row_share",
    "column_share",
    "patience",
    "rows_per_bank",
    "expected_batch",
)
# Options that mean something to every model but trees.
NOT_OF_TREES = ("rounds", "lr", "clip", "value_bits")


def configuration(given: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig:
    """The configuration of a run with the options `given`. An option whose value is None counts as not given.

    `base`: the configuration that they change, such as that of an earlier run. Its calibrated noise is left out,
    because a run calibrates its noise when it starts. Raises `OptionError` for an unknown option or a value out of its
    range, and a subclass of `FederationError` for options that contradict each other.
    """
    asked = read_options(given)
    if asked.get("model") == AUTO:
        raise OptionError(f"model: {AUTO} names no single model: `train` tries several; give one of them here")
    refuse_beside_trees(asked, base)
    if "value_bits" in asked and "bits" in asked:
        raise OptionError(f"{flag('bits')} and {flag('value_bits')} both set the bits of a value: give one of them")
    kind = _kind(asked, base)
    privacy = _privacy(asked, base, kind)
    inputs = asked.get("inputs")
    start = _defaults(privacy, kind, inputs) if base is None else _in_style_of(base, privacy, kind, inputs)
    values = _by_table(asked)
    if kind == "noisy-or" and privacy is not None and "expected_batch" not in asked:
        # A declared number that is the default of a history is that of the history asked for.
        before, after = (declared_rows(days) for days in (start.model.history_days, _history(values, start)))
        privacy = replace(privacy, expected_batch=_moved(privacy.expected_batch, before, after))
    for table, fitting in _fitted(asked, base, kind, privacy).items():
        values[table] = {**fitting, **values.get(table, {})}
    return replace(
        start,
        **values.get("", {}),
        with_baselines=not asked.get("no_baselines", not start.with_baselines),
        data=replace(start.data, **values.get("data", {})),
        model=replace(start.model, **values.get("model", {})),
        training=replace(start.training, **values.get("training", {})),
        baseline_training=replace(start.baseline_training, **values.get("baseline_training", {})),
        aggregation=replace(start.aggregation, **values.get("aggregation", {})),
        privacy=None if privacy is None else replace(privacy, **values.get("privacy", {})),
        statistics=_statistics(asked, start, values.get("statistics", {})),
        algorithm=_algorithm(start, values.get("algorithm", {})),
        participation=_participation(asked, start, values.get("participation", {})),
        compression=_compression(asked, start, values.get("compression", {})),
        resources=_resources(start, values.get("resources", {})),
        constants=_constants(start, values.get("constants", {})),
        robust=_robust(start, values.get("robust", {})),
        attack=_attack(start, values.get("attack", {})),
        trees=None if start.trees is None else replace(start.trees, **values.get("trees", {})),
    )


def _fitted(
    asked: Mapping[str, Any], base: RunConfig | None, kind: ModelKind, privacy: PrivacySettings | None
) -> dict[str, dict[str, Any]]:
    """Settings, by table, that follow from the declared number of rows; a setting that is asked for itself wins."""
    if privacy is None or privacy.unit == "client":
        return {}
    rows, shared = asked.get("rows_per_bank"), kind == "noisy-or" or privacy.noise == "shared"
    fitted: dict[str, Any] = {}
    if kind == "mlp" and shared and base is None:
        fitted["longest_step"] = LONGEST_STEP
    if rows is None:
        return {"privacy": fitted}
    if shared:
        return {"privacy": {**fitted, "expected_batch": rows}}
    own = own_steps(rows)
    fitted |= {"sample_rate": own.sample_rate, "steps": own.steps, "expected_batch": own.expected_batch}
    return {"privacy": fitted, "training": {"learning_rate": own.learning_rate}}


def refuse_beside_no_dp(given: Collection[str]) -> None:
    """Refuse options of differential privacy together with `no_dp`.

    They are not ignored, because a person who sets a budget expects it to be kept. `given`: names of the given options.
    Raises `BudgetError`.
    """
    for name, option in TRAIN_OPTIONS.items():
        if option.only_private and name in given:
            raise BudgetError(
                f"--no-dp trains without differential privacy, and {flag(name)} is a setting of differential privacy: "
                "leave out one of the two"
            )


def refuse_beside_trees(asked: Mapping[str, Any], base: RunConfig | None) -> None:
    """Refuse options that do not fit trees where trees are asked for, and options of trees where they are not.

    Raises `BudgetError` for columns that no epsilon covers, `OptionError` for others.
    """
    kind = asked.get("model", "mlp" if base is None else base.model.kind)
    if kind != "trees":
        if of_trees := [name for name in asked if TRAIN_OPTIONS[name].only_trees]:
            raise OptionError(f"{flag(of_trees[0])} is an option of trees: leave it out, or give --model trees")
        return
    private = wants_privacy(asked, base)
    if private and asked.get("inputs") == "own":
        raise BudgetError(OWN_WINDOWS)
    for name in NOT_OF_RANDOM_TREES:
        if name in asked and private:
            raise OptionError(
                f"{flag(name)} says nothing to trees under differential privacy, whose splits are drawn and whose "
                "leaves are sums: leave it out, or give --no-dp for trees that learn their splits"
            )
    for name, value in asked.items():
        option = TRAIN_OPTIONS[name]
        if name in NOT_OF_TREES or (option.only_network and value not in OF_BOTH):
            raise OptionError(
                f"{flag(name)} is an option of models that banks train in rounds, and trees grow by sums over all "
                "banks, without rounds: leave it out, or choose another --model"
            )


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a value, checked, with absolute paths, so that a run can be resumed from another folder.

    Raises `OptionError` for an unknown option or a value out of its range.
    """
    asked = {}
    for name, value in given.items():
        if name not in TRAIN_OPTIONS:
            raise OptionError(f"{name}: expected one of {', '.join(TRAIN_OPTIONS)}")
        if value is None:
            continue
        try:
            asked[name] = TRAIN_OPTIONS[name].what.of(os.fspath(value) if isinstance(value, os.PathLike) else value)
        except options.Refused as fault:
            raise OptionError(f"{name}: {fault}") from None
    for name in ("data", "schema", "limits"):
        if name in asked:
            asked[name] = _absolute(asked[name])
    if "partition" in asked:
        file, colon, column = asked["partition"].rpartition(":")
        asked["partition"] = f"{_absolute(file)}{colon}{column}" if colon else column
    if "budget_dir" in asked:
        asked["budget_dir"] = str(Path(asked["budget_dir"]).resolve())
    return asked


def _absolute(path: str) -> str:
    """The absolute path of a file; the name of embedded data or a shipped schema is not changed."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _by_table(asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values of fields by table of the configuration; "" for fields outside tables."""
    values: dict[str, dict[str, Any]] = {}
    for name, value in asked.items():
        for place in TRAIN_OPTIONS[name].places:
            table, _, field = place.rpartition(".")
            if place != "with_baselines":  # --no-baselines negates it
                values.setdefault(table, {})[field] = value
    return values


def wants_privacy(asked: Mapping[str, Any], base: RunConfig | None) -> bool:
    """A budget that is named turns on what the file leaves out."""
    was_private = base is None or base.privacy is not None
    return not asked.get("no_dp", not (was_private or "epsilon" in asked))


def _kind(asked: Mapping[str, Any], base: RunConfig | None) -> ModelKind:
    """Which model is trained: the one asked for, that of `base`, or what suits another privacy and the other options.

    Raises `OptionError` for an option of the network beside the noisy-or model.
    """
    of_network = [name for name, value in asked.items() if TRAIN_OPTIONS[name].only_network and value not in OF_BOTH]
    private = wants_privacy(asked, base)
    network = of_network or (base is not None and _says_network(base))
    network = network or _declares_enough(asked, base)
    kind: ModelKind = "noisy-or" if private and not network else "mlp"
    if base is not None and ((base.privacy is not None) == private or base.model.kind == "trees"):
        kind = base.model.kind
    kind = asked.get("model", kind)
    if kind == "noisy-or" and of_network:
        raise OptionError(
            f"{flag(of_network[0])} is an option of the network, and the noisy-or model is trained in full steps of "
            "all banks: leave it out, or give --model mlp"
        )
    return kind


def _declares_enough(asked: Mapping[str, Any], base: RunConfig | None) -> bool:
    """Whether the declared rows and epsilon afford the network, and it has nothing to lose.

    Where banks share parties, the risk that their counts show is worth more than what a network learns beside it.
    """
    before = PrivacySettings() if base is None or base.privacy is None else base.privacy
    rows, epsilon = asked.get("rows_per_bank", before.rows_per_bank), asked.get("epsilon", before.epsilon)
    if rows is None or not affords_network(rows, epsilon):
        return False
    data = DataSettings() if base is None else base.data
    try:
        schema = resolve_schema(asked.get("data", data.source), asked.get("schema", data.schema))
    except FederationError:  # which says more when the rows are read
        return False
    return not schema.shares_counts


def _says_network(base: RunConfig) -> bool:
    """Whether a configuration sets what is for the network alone to another value than its default."""
    before = _defaults(base.privacy, base.model.kind)
    places = [place for option in TRAIN_OPTIONS.values() if option.only_network for place in option.places]
    return any(_held(base, place) != _held(before, place) for place in places)


def _held(config: RunConfig, place: str) -> Any:
    """The value at "table.field"; None where `config` has no such table."""
    table, _, field = place.rpartition(".")
    return getattr(getattr(config, table), field, None)


def _privacy(asked: Mapping[str, Any], base: RunConfig | None, kind: ModelKind) -> PrivacySettings | None:
    """The privacy that decides the style; None: without."""
    if not wants_privacy(asked, base):
        refuse_beside_no_dp(asked)
        return None
    start = private_defaults(kind)
    if base is not None and base.privacy is not None:
        start = _moved_fields(base.privacy, private_defaults(base.model.kind), start)
    deciding = {name: asked[name] for name in ("unit", "noise", "epsilon") if name in asked}
    # Calibrated when a run starts, so values of another run are not used.
    return replace(start, noise_multiplier=None, share_variance=None, share_pieces=None, learning_rate=None, **deciding)


def _defaults(privacy: PrivacySettings | None, kind: ModelKind, inputs: str | None = None) -> RunConfig:
    """`inputs`: as in `style_of`."""
    style = style_of(privacy, kind, inputs)
    return RunConfig(
        rounds=style.rounds,
        model=style.model,
        training=replace(style.training, epochs=OPEN.training.epochs, batch_size=OPEN.training.batch_size),
        aggregation=AggregationSettings(value_bits=style.value_bits),
        privacy=privacy,
        baseline_model=OPEN.model,
        baseline_training=OPEN.training,
        statistics=_sharing(privacy, kind, inputs),
        trees=tree_defaults(privacy) if kind == "trees" else None,
    )


def _sharing(privacy: PrivacySettings | None, kind: ModelKind, inputs: str | None = None) -> StatisticsSettings:
    by_risk = style_of(privacy, kind, inputs).model.inputs == "risk"
    settings = default_settings(private=privacy is not None, fraud_blocks=by_risk)
    return replace(settings, budget_share=share_of_counts(privacy, kind))


def _in_style_of(base: RunConfig, privacy: PrivacySettings | None, kind: ModelKind, inputs: str | None) -> RunConfig:
    """`base` with `privacy`; values that equal defaults of its old style become those of the new one.

    `inputs`: of the new style, where trees are asked for with them; None: those of `base`, if it has trees too.
    """
    same = base.model.kind == kind
    before = _defaults(base.privacy, base.model.kind, base.model.inputs)
    after = _defaults(privacy, kind, inputs or (base.model.inputs if same else None))
    statistics = None
    if base.statistics is not None:
        assert before.statistics is not None and after.statistics is not None
        statistics = _moved_fields(base.statistics.undecided(), before.statistics, after.statistics)
    return replace(
        base,
        rounds=_moved(base.rounds, before.rounds, after.rounds),
        model=_moved_fields(base.model, before.model, after.model),
        training=_moved_fields(base.training, before.training, after.training),
        aggregation=_moved_fields(base.aggregation, before.aggregation, after.aggregation),
        privacy=privacy,
        statistics=statistics,
        trees=_moved_trees(base.trees, before.trees, after.trees),
    )


Value = TypeVar("Value")


def _moved(value: Value, before: Value, after: Value) -> Value:
    return after if value == before else value


def _moved_fields(settings: Value, before: Value, after: Value) -> Value:
    """`_moved` for each field of three dataclasses of one kind."""
    moved = {name: _moved(value, getattr(before, name), getattr(after, name)) for name, value in vars(settings).items()}
    return replace(settings, **moved)  # type: ignore[type-var]  # a TypeVar cannot say that it is a dataclass


def _moved_trees(
    trees: TreeSettings | None, before: TreeSettings | None, after: TreeSettings | None
) -> TreeSettings | None:
    if trees is None or before is None or after is None:
        return after
    return _moved_fields(trees, before, after)


def _history(values: Mapping[str, Mapping[str, Any]], start: RunConfig) -> int:
    days: int = values.get("model", {}).get("history_days", start.model.history_days)
    return days


def _statistics(asked: Mapping[str, Any], start: RunConfig, values: Mapping[str, Any]) -> StatisticsSettings | None:
    if asked.get("no_shared_statistics", start.statistics is None and not values):
        return None
    return replace(start.statistics or _sharing(start.privacy, start.model.kind, start.model.inputs), **values)


def _algorithm(start: RunConfig, values: Mapping[str, Any]) -> AlgorithmSettings:
    """The algorithm. If `values` name another one than `start` has, it begins with its own defaults."""
    same = values.get("name", start.algorithm.name) == start.algorithm.name
    return replace(start.algorithm, **values) if same else AlgorithmSettings(**values)


def _participation(
    asked: Mapping[str, Any], start: RunConfig, values: Mapping[str, Any]
) -> ParticipationSettings | None:
    """The participation; None where every bank is in every round."""
    settings = replace(start.participation or ParticipationSettings(), **values)
    if settings.fraction == 1.0 and not settings.vanish_before and not settings.vanish_after:
        if "quorum" in asked or asked.get("reuse_updates"):
            raise OptionError(
                f"{flag('quorum')} and {flag('reuse_updates')} are about banks that are missing: give "
                f"{flag('fraction')} or {flag('vanish_after')} as well"
            )
        return None
    return settings


def _compression(asked: Mapping[str, Any], start: RunConfig, values: Mapping[str, Any]) -> CompressionSettings | None:
    settings = start.compression or CompressionSettings()
    if "value_bits" in asked:
        settings = replace(settings, bits=None)
    settings = replace(settings, **values)
    return None if settings == CompressionSettings() else settings


def _resources(start: RunConfig, values: Mapping[str, Any]) -> ResourceSettings | None:
    settings = replace(start.resources or ResourceSettings(), **values)
    return None if settings == ResourceSettings() else settings


def _constants(start: RunConfig, values: Mapping[str, Any]) -> ConstantsSettings | None:
    """How constants are computed; None for the defaults. A plan leaves it out where the schema names all constants."""
    settings = replace(start.constants or ConstantsSettings(), **values)
    return None if (settings := replace(settings, sigma=None)) == ConstantsSettings() else settings


def _robust(start: RunConfig, values: Mapping[str, Any]) -> RobustSettings | None:
    """The rule; None without one. If `values` name another one than `start` has, it begins without a number."""
    if values.get("rule") == options.NONE:
        _require_alone(values, "robust", "byzantine")
        return None
    if start.robust is not None and values.get("rule", start.robust.rule) == start.robust.rule:
        return replace(start.robust, **values)
    if values and "rule" not in values:
        raise OptionError(f"{flag('byzantine')} is a number for a rule: give {flag('robust')} as well")
    return RobustSettings(**values) if values else None


def _require_alone(values: Mapping[str, Any], left_out: str, number: str) -> None:
    """Raise `OptionError` where `values` leave something out and have a number for it as well."""
    if len(values) > 1:
        raise OptionError(
            f"{flag(left_out)} {options.NONE} leaves out what {flag(number)} is a number for: give one of them"
        )


def _attack(start: RunConfig, values: Mapping[str, Any]) -> AttackSettings | None:
    if values.get("name") == options.NONE:
        _require_alone(values, "attack", "attackers")
        return None
    if start.attack is not None:
        return replace(start.attack, **values)
    if len(values) == 1:
        given, missing = ("attack", "attackers") if "name" in values else ("attackers", "attack")
        raise OptionError(f"{flag(given)} needs {flag(missing)} as well: what is done, and by how many banks")
    return AttackSettings(**values) if values else None
