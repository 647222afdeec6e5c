"""Every field of every settings class, in Python and in TOML, against values that nobody should give: a named error
that says which field, or a value that is what its declaration allows. `pytest -rP` shows how many of each.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from example_config import EXAMPLE_CONFIG

import fl
from fl import options
from fl.assist.account import Prices, SpendingLimits
from fl.assist.session import Settings
from fl.assist.stories import DataChoice, Effort
from fl.counts.episodes import Episodes
from fl.data.constants import Constant
from fl.data.derived_columns import DerivedColumn
from fl.data.federation import Agreed
from fl.data.schema import (
    AmountColumn,
    CategoricalColumn,
    ColumnSplit,
    DatedSplit,
    Days,
    DropRule,
    FractionSplit,
    LabelColumn,
    Moments,
    NumericColumn,
    PartyColumns,
    Schema,
    TextColumn,
    TimeColumn,
)
from fl.data.schema_file import parse_schema
from fl.data.simulate import Compromises, Drift, Simulation
from fl.errors import FederationError, ResourceError, RunFolderError, SchemaError
from fl.flower.client_app import schedule_of, simulation_of
from fl.flower.errors import SettingsError
from fl.flower.settings import PartySettings, PlanSettings, load_settings
from fl.flower.workflow import WaitLimits
from fl.learning.calibration import Calibration
from fl.learning.private_schedule import PrivateSchedule
from fl.learning.private_size import own_steps
from fl.learning.thresholds import ByAlerts, ByCost
from fl.learning.training import PrivateSteps
from fl.privacy.discrete_laplace import LaplacePlan
from fl.privacy.mechanisms import ClientRounds, LaplaceCounts, Mechanism, NoisyCounts, SharedGaussian, SharedSteps
from fl.reports.examination.review import Team
from fl.rounds.algorithms.fedadam import FedAdam
from fl.rounds.algorithms.fedbuff import Clock, FedBuff
from fl.rounds.algorithms.fedprox import FedProx
from fl.rounds.algorithms.participation import Dropouts, Everyone, Sampled
from fl.rounds.algorithms.settings import OPTIONS, AlgorithmSettings, ParticipationSettings
from fl.rounds.attackers import AttackSettings
from fl.rounds.compression import CompressionSettings
from fl.rounds.limits import BankLimits, ResourceSettings, limits_of
from fl.runs.choice import HeldOutFigures, ModelChoice
from fl.runs.config import ConstantsSettings, config_from_toml, config_to_toml
from fl.secure.robust import RobustSettings
from fl.trees.settings import Column, Terms, TreeSettings

HOSTILE = (math.nan, math.inf, -math.inf, -1, 0, "", 1e308, 10**30, "several", True, None, [], b"bytes", 1 + 1j)
TOML = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    '""',
    "1e308",
    str(10**30),
    "9" * 5000,
    '"several"',
    "true",
    "[]",
    "2024-01-01",
)

LABEL = LabelColumn("y")
CONFIG = EXAMPLE_CONFIG
EXAMPLES: tuple[Any, ...] = (
    CONFIG,
    *(value for value in vars(CONFIG).values() if dataclasses.is_dataclass(value)),
    *(AlgorithmSettings(name) for name in OPTIONS),  # type: ignore[arg-type]
    ParticipationSettings(),
    CompressionSettings(),
    ResourceSettings(),
    RobustSettings(),
    AttackSettings("ipm", 1),
    BankLimits(),
    FedAdam(Everyone(3)),
    FedProx(Everyone(3)),
    FedBuff(Clock((1, 1, 1), 3, 8)),
    Clock((1, 1, 1), 3, 8),
    Sampled(5, 0.5, 3, 0),
    Dropouts(),
    Prices(),
    SpendingLimits(100),
    Settings(Path("work")),
    DataChoice(),
    Effort(),
    Mechanism(0.1, 1.0, 10),
    NoisyCounts(2, 1, 5.0, 3, 1, 5),
    LaplaceCounts(1.0, 1, 3, 1, 5, 1e-30),
    LaplacePlan(1.0, 4, 1),
    PrivateSchedule(0.7, 20, 2.5, 0.8, 0.01),
    Agreed(17_600, {"terminal": ("t1", "t2")}),
    Episodes(2e-4, 28.0, 2.0, 0.95, 0.0035, 0.96, True, 100.0),
    SharedGaussian(1.0, 5.0, 3, 10, 2),
    ClientRounds(1.0, 5.0, 3, 10, 2),
    SharedSteps(1.0, 5.0, 3, 10, 2),
    PrivateSteps(0.1, 1.0, 2, 1.0, 100.0),
    Simulation(),
    Drift(3),
    Compromises(),
    LABEL,
    TimeColumn("t"),
    AmountColumn("a"),
    PartyColumns(),
    NumericColumn("n"),
    DerivedColumn("d", "equal", ("a", "b")),
    Constant("c", 0.0, 1.0),
    ConstantsSettings(),
    own_steps(10_000),
    CategoricalColumn("c", hash_width=8),
    TextColumn("x"),
    DropRule("d", ("NA",)),
    Days(1, 5),
    DatedSplit(Days(1, 5), (Days(20, 30),)),
    FractionSplit(),
    Moments(0, 10**9),
    ColumnSplit("part", ("train",), ("test",)),
    Schema("s", LABEL),
    PlanSettings(8, 1.0, 20, 1, 1000),
    PartySettings("bank", Path("f"), Path("i"), Path("e"), 3, PlanSettings(8, 1.0, 20, 1, 1000)),
    WaitLimits(),
    ByAlerts(10.0),
    ByCost(100.0, 5.0),
    Calibration(1.0, -2.0, "slope and intercept", 1000, 10),
    Team(50),
    TreeSettings(),
    Column("amount"),
    Terms((Column("amount"),), TreeSettings(), 3),
    HeldOutFigures(0.5, 0.1, 1000, 10),
    ModelChoice(("trees", "mlp"), {"noisy-or": "no parties"}),
)


def checked_classes() -> set[type]:
    """Every dataclass of `fl` that holds itself to declarations."""
    found = set()
    for module in pkgutil.walk_packages(fl.__path__, "fl."):
        if module.name == "fl.secure.device_kernels":  # needs Triton, which torch has on CUDA machines; has no settings
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
                made = getattr(kind, "__post_init__", None)
                if made is not None and {"options", "check"} <= set(made.__code__.co_names):
                    found.add(kind)
    return found


def test_every_class_that_declares_ranges_is_walked() -> None:
    assert checked_classes() == {type(example) for example in EXAMPLES}


def names_of(example: Any) -> list[str]:
    """What a person sets; a timetable is made by `fl` itself, and what an app's table holds is the app's affair."""
    return [
        field.name for field in dataclasses.fields(example) if field.init and field.name not in ("timetable", "app")
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_hostile_value_is_refused_by_the_fields_name_or_is_what_its_declaration_allows(example: Any) -> None:
    ends: Counter[str] = Counter()
    for name in names_of(example):
        for value in HOSTILE:
            try:
                made = dataclasses.replace(example, **{name: value})
            except FederationError as refusal:
                assert "\n" not in str(refusal) and len(str(refusal)) < 400
                ends["refused"] += 1
                continue
            kept, declaration = getattr(made, name), options.declared(type(example)).get(name)
            assert declaration is not None, f"{name} takes {value!r} and declares nothing"
            option, optional = declaration
            assert (kept is None and value is None and optional) or kept == option.of(value)
            assert not (isinstance(kept, float) and not math.isfinite(kept))
            ends["accepted"] += 1
    print(type(example).__name__, dict(ends))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_refusal_names_the_field_the_range_and_the_value(example: Any) -> None:
    for name, (option, _) in options.declared(type(example)).items():
        if isinstance(option, options.Real | options.Whole):
            with pytest.raises(FederationError) as refused:
                dataclasses.replace(example, **{name: math.nan})
            assert f"{name}: expected {option}, got nan" in str(refused.value)


# --- the same in TOML -------------------------------------------------------------------------------------------------


def with_value(text: str, table: str, name: str, literal: str) -> str:
    """`text` with `name = literal` in `[table]` ("" for the top), in place of what was there."""
    head, *tables = text.split("\n\n[")
    parts = {"": head, **{part.partition("]")[0]: part.partition("]")[2] for part in tables}}
    kept = [line for line in parts[table].splitlines() if line and not line.startswith(f"{name} =")]
    parts[table] = "\n".join([*kept, f"{name} = {literal}"])
    return "\n\n".join([parts.pop(""), *(f"[{key}]\n{body}" for key, body in parts.items())]) + "\n"


FULL = dataclasses.replace(
    CONFIG,
    participation=ParticipationSettings(),
    compression=CompressionSettings("1:8"),
    resources=ResourceSettings(memory_mb=8.0),
    constants=ConstantsSettings(0.1),
)
FIELDS = [("", f.name) for f in dataclasses.fields(FULL) if not dataclasses.is_dataclass(getattr(FULL, f.name))]
FIELDS += [
    (table, f.name)
    for table, held in vars(FULL).items()
    if dataclasses.is_dataclass(held)
    for f in dataclasses.fields(held)
]


def test_a_runs_configuration_takes_in_toml_what_it_takes_in_python_and_nothing_else() -> None:
    text, ends = config_to_toml(FULL), Counter[str]()
    for table, name in FIELDS:
        for literal in TOML:
            try:
                made: Any = config_from_toml(with_value(text, table, name, literal))
            except RunFolderError as refusal:
                assert len(str(refusal)) < 400
                made = None
            try:
                value = tomllib.loads(f"x = {literal}")["x"]
            except ValueError:
                assert made is None
                continue
            try:
                held = {name: value}
                if table:
                    held = {table: dataclasses.replace(getattr(FULL, table), **held)}
                expected: Any = dataclasses.replace(FULL, **held)
            except FederationError:
                expected = None
            assert made == expected, f"[{table}] {name} = {literal}"
            ends["refused" if made is None else "accepted"] += 1
    print("config.toml", dict(ends))


SCHEMA = """# a schema

[label]
column = "y"

[time]
column = "t"

[amount]
column = "a"

[parties]
customer = "c"

[split]
validation_share = 0.1

[features]
bound = 3.0

[file]
delimiter = ","

[partition]
column = "b"

[columns]
never = ["z"]
"""
SCHEMA_FIELDS = {
    "": ("name", "about"),
    "label": ("column", "delay_days", "positive", "negative", "known"),
    "time": ("column", "unit", "format", "origin"),
    "amount": ("column", "typical", "spread"),
    "parties": (
        *("customer", "terminal", "customer_per_day", "terminal_per_day", "shared"),
        *("merchant", "device", "account", "reported_by"),
    ),
    "split": ("validation_share", "train", "test", "train_fraction", "test_fraction"),
    "features": ("bound", "windows_days"),
    "file": ("delimiter",),
    "partition": ("column",),
    "columns": ("never",),
}


def test_a_schema_file_with_a_hostile_value_is_refused_by_name_or_loads() -> None:
    ends: Counter[str] = Counter()
    for table, names in SCHEMA_FIELDS.items():
        for name in names:
            for literal in TOML:
                try:
                    schema = parse_schema(with_value(SCHEMA, table, name, literal), "some.toml")
                except SchemaError as refusal:
                    assert str(refusal).startswith("some.toml: ") and len(str(refusal)) < 400
                    ends["refused"] += 1
                    continue
                ends["accepted"] += 1
                assert math.isfinite(schema.bound) and schema.history_days >= 0
    print("schema", dict(ends))


def test_a_limits_file_with_a_hostile_value_is_refused_by_name_or_holds(tmp_path: Path) -> None:
    path, ends = tmp_path / "limits.toml", Counter[str]()
    for name in names_of(BankLimits()):
        for literal in TOML:
            path.write_text(f"[all]\n{name} = {literal}\n")
            try:
                limits = limits_of(ResourceSettings(str(path)), ["a", "b"])["a"]
            except ResourceError as refusal:
                assert str(path) in str(refusal)
                ends["refused"] += 1
                continue
            ends["accepted"] += 1
            assert all(value is None or value > 0 for value in vars(limits).values())
    print("limits", dict(ends))


PARTY = """# a party

role = "bank"
identity = "i.json"
enrolment = "e.json"
quorum = 3

[plan]
max_clients = 8

[app]
seed = 1
"""
PARTY_FIELDS = {
    "": ("role", "identity", "enrolment", "quorum", "allow_reuse", "model_repeats"),
    "plan": ("max_clients", "clip", "value_bits", "max_weight", "max_length"),
}


def test_a_party_file_with_a_hostile_value_is_refused_by_name_or_loads(tmp_path: Path) -> None:
    path, ends = tmp_path / "party.toml", Counter[str]()
    path.write_text(PARTY)
    assert load_settings(path).plan.max_clients == 8
    for table, names in PARTY_FIELDS.items():
        for name in names:
            for literal in TOML:
                path.write_text(with_value(PARTY, table, name, literal))
                try:
                    settings = load_settings(path)
                except SettingsError as refusal:
                    assert str(refusal).startswith(f"{path}: ")
                    ends["refused"] += 1
                    continue
                ends["accepted"] += 1
                assert settings.quorum >= 2 and settings.plan.clip > 0
    print("party file", dict(ends))


@pytest.mark.parametrize("value", [math.nan, -1, "several", True, 10**30, None, []], ids=options.shown)
def test_a_banks_own_app_table_is_held_to_the_same_ranges(value: object) -> None:
    table = {"data": "simulated", "bank": "a", "seed": 1}
    for name in ("seed", "banks", "customers", "epochs"):
        with pytest.raises(SettingsError, match=rf"^app\.{name}: expected a whole number from .*, got "):
            simulation_of({**table, name: value})
            schedule_of({**table, name: value}, rounds=1)
