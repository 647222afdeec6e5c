"""Every option of every command, and every field of every settings class, against values that nobody should give.

The commands are played whole, by the very function that a shell calls; only the long work behind them is cut off, at
the place where it would begin. Each case ends in a refusal of one line (exit code 2 where the value itself is
impossible, 1 where what it names is), or in the work with that value. `pytest -rP` shows how many there were of each.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from example_config import EXAMPLE_CONFIG

import benchmarks.__main__ as benchmarks_main
import demos.__main__ as demos_main
from demos.options import FilePath, Range
from demos.train import BY_NAME
from fl import options
from fl.assist.examples import ENDING
from fl.counts.settings import StatisticsSettings
from fl.learning.training import LocalTraining
from fl.rounds.algorithms.settings import AlgorithmSettings, ParticipationSettings
from fl.rounds.attackers import AttackSettings
from fl.rounds.limits import ResourceSettings
from fl.runs.config import (
    AggregationSettings,
    ConstantsSettings,
    DataSettings,
    ModelSettings,
    PrivacySettings,
    RunConfig,
    config_to_toml,
)
from fl.runs.plan import read_source
from fl.runs.train_options import TRAIN_OPTIONS, TrainOption, flag
from fl.secure.robust import RobustSettings
from fl.trees.settings import TreeSettings

NUMBERS = ("nan", "inf", "-inf", "-1", "0", "", "1e308", str(10**30), "9" * 5000, "several", "1,5")
FILES = ("", "/", "absent.file", "no/such/folder/file", "a\0b", "x" * 5000)


class Reached(Exception):
    """The work would begin now, so everything that was asked for was accepted."""


def begin(*_: object, **__: object) -> Any:
    raise Reached


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> tuple[int | str, str]:
    """(exit code or "accepted", what stderr says). Any other exception passes through: it would be a traceback."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 0
            return (code if code else "accepted"), stderr.getvalue()
        except Reached:
            return "accepted", ""
    return "accepted", stderr.getvalue()


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(group, click.Group):
        yield path, group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


class ByName(click.Option):
    """An option of `train` that is given as `--option NAME=VALUE`."""

    def __init__(self, name: str, option: TrainOption) -> None:
        super().__init__(["--option", name], type=Range(option.what))


def parameters() -> Iterator[tuple[str, tuple[str, ...], click.Parameter]]:
    """(program, command, parameter) of everything that takes a value."""
    for program, main in (("demos", demos_main), ("benchmarks", benchmarks_main)):
        for path, command in commands(main.cli):
            for parameter in command.params:
                if not getattr(parameter, "is_flag", False) and parameter.name != "help":
                    yield program, path, parameter
            if path == ("train",):
                yield from ((program, path, ByName(name, option)) for name, option in BY_NAME.items())


# Free words, each of which is looked up in a list of its own, and options that another command declares.
WORDS = {("attack", "names"), ("curve", "train_options")}
FREE = {("approve", "reviewer"), ("build", "reviewer"), ("train", "named")}


def test_no_option_goes_without_a_declaration() -> None:
    for _, path, parameter in parameters():
        declared = isinstance(parameter.type, Range | FilePath | click.Choice)
        assert declared or (path[-1], parameter.name) in WORDS | FREE, (path, parameter.name)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for what a command needs beside the option under test."""
    folder = tmp_path_factory.mktemp("ground")
    (folder / "config.toml").write_text(config_to_toml(EXAMPLE_CONFIG))
    (folder / "some.csv").write_text("TIME,AMOUNT,IS_FRAUD\n2024-01-01,3.5,0\n2024-01-02,4.5,1\n")
    for name in ("holder", "adder", "bank-a", "bank-b"):
        run_quietly(["enrol", "key", "--organisation", name, "--out", str(folder / f"{name}.key")])
    return folder


def run_quietly(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert run(demos_main.main, patch, arguments)[0] == "accepted"


def needs(ground: Path, fresh: Path, path: tuple[str, ...]) -> dict[str, list[str]]:
    """What each command is given beside the parameter under test: name of the parameter -> arguments."""
    openai = {"provider": ["--provider", "openai"], "model": ["--model", "m"]}
    given: dict[tuple[str, ...], dict[str, list[str]]] = {
        ("round",): {"length": ["--length", "10"], "clients": ["--clients", "3"]},
        ("train",): {"run_dir": ["--run-dir", str(fresh / "run")]},
        ("evaluate",): {"run": ["absent-run"]},
        ("ablate",): {"config": [str(ground / "config.toml")], "folder": ["--out", str(fresh / "ablation")]},
        ("card",): {"run": ["absent-run"]},
        ("budget",): {"run": ["absent-run"]},
        ("curve",): {"folder": ["--folder", str(fresh / "curve")]},
        ("schema",): {"written": ["--simulate", str(fresh / "made.csv")]},
        ("score",): {"run": ["absent-run"], "file": [str(ground / "some.csv")]},
        ("enrol", "key"): {"organisation": ["--organisation", "a bank"], "file": ["--out", str(fresh / "new.key")]},
        ("enrol", "list"): {
            "key_holder": ["--key-holder", str(ground / "holder.key.public")],
            "aggregator": ["--aggregator", str(ground / "adder.key.public")],
            "clients": ["--client", str(ground / "bank-a.key.public"), "--client", str(ground / "bank-b.key.public")],
            "file": ["--out", str(fresh / "list.json")],
        },
        ("enrol", "check"): {"file": ["absent-list"]},
        ("assist", "synth"): {"scenario": ["--scenario", "test charges"], "work": ["--work", str(fresh / "work")]},
        ("assist", "approve"): {"folder": ["absent-folder"]},
        ("assist", "compare"): {"folder": ["absent-folder"]},
        ("assist", "features"): {"work": ["--work", str(fresh / "work")]},
        ("assist", "review"): {"work": ["--work", str(fresh / "work")]},
        ("assist", "finetune", "propose"): {"work": ["--work", str(fresh / "work")]},
        ("assist", "finetune", "build"): {"folders": ["absent-folder"]},
        ("assist", "finetune", "local"): {"files": ["a.jsonl", "b.jsonl", "c.jsonl"]},
        ("assist", "finetune", "submit"): {"file": ["a.jsonl"], "work": ["--work", str(fresh / "work")], **openai},
        ("assist", "finetune", "status"): {"job": ["a-job"], "work": ["--work", str(fresh / "work")], **openai},
        ("audit",): {"ledger": ["absent-ledger"]},
        ("report",): {"files": ["absent.json"]},
        ("compare",): {"old": ["absent.json"], "new": ["absent.json"]},
    }
    return given.get(path, {})


# Where each command's work begins. A parameter that names what the work reads is played with the real function instead.
WORK = {
    ("round",): "secagg.run_round",
    ("evaluate",): "fl.reports.examination.report.examine",
    ("ablate",): "fl.reports.ablation.play",
    ("card",): "fl.reports.cards.write_cards",
    ("curve",): "subprocess.run",
    ("schema",): "fl.data.simulate.simulate",
    ("score",): "fl.runs.api.load_model",
    ("attack",): "demos.attacks.verdict.perform",
    ("network",): "demos.network._played",
    ("assist", "synth"): "fl.assist.stories.make_synthetic",
    ("assist", "compare"): "fl.assist.stories.compare_synthetic",
    ("assist", "features"): "fl.assist.stories.describe_texts",
    ("assist", "review"): "fl.assist.stories.review_alerts",
    ("assist", "finetune", "propose"): "fl.assist.stories.propose_examples",
    ("assist", "finetune", "local"): "fl.assist.stories.local_text_head",
    ("assist", "finetune", "submit"): "fl.assist.stories.submit_examples",
    ("assist", "finetune", "status"): "fl.assist.session.open_openai",
    ("run",): "benchmarks.runner.run",
    ("floor",): "benchmarks.floor.floors",
    ("compare",): "benchmarks.results.load",
    ("worth",): "benchmarks.private_worth.measure",
    ("poisoning",): "benchmarks.poisoning.measure",
    ("drafts",): "benchmarks.drafts.measure",
    ("robust",): "benchmarks.robust_cost.measure",
    ("trees",): "benchmarks.tree_cost.measure",
}
READS = {"run", "folder", "folders", "file", "files", "ledger", "old", "new"}  # arguments played with the real work


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[RunConfig]]:
    """No work, no threads, nothing left behind; gives the configurations that `train` would have started."""
    started: list[RunConfig] = []

    def start(config: RunConfig, path: Path) -> None:
        from fl.runs.folder import refuse_used

        refuse_used(path)
        started.append(config)
        if config.data.source != "simulated" or config.data.schema or config.data.partition:
            read_source(config.data, config.seed)
        raise Reached

    monkeypatch.setattr("fl.runs.experiment.Experiment.start", start)
    # Imported before: a module that first imports `simulate` while it is replaced keeps the replacement for good.
    importlib.import_module("fl.reports.examination.report")
    monkeypatch.setattr("fl.data.simulate.simulate", begin)
    monkeypatch.setattr("fl.data.federation.simulate", begin)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield started
    for number, handler in handlers.items():
        signal.signal(number, handler)


def values_for(parameter: click.Parameter) -> tuple[str, ...]:
    named = isinstance(parameter.type, Range) and isinstance(parameter.type.option, options.Text)
    return FILES if isinstance(parameter.type, FilePath) else (*NUMBERS, *FILES) if named else (*NUMBERS, "a\0b")


def argument_of(parameter: click.Parameter, value: str) -> list[str]:
    if isinstance(parameter, ByName):
        return ["--option", f"{parameter.name}={value}"]
    return [f"{parameter.opts[0]}={value}"] if isinstance(parameter, click.Option) else ["--", value]


def complaint(stderr: str) -> str:
    """The one line in which a refusal says what is wrong; how a command is used, and warnings, may stand before it."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith(("Usage: ", "Try ", ENDING))]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


def impossible(parameter: click.Parameter, value: str) -> bool:
    """Whether the parameter's own declaration rules `value` out."""
    if isinstance(parameter.type, FilePath):
        return not value or "\0" in value
    if not isinstance(parameter.type, Range):
        return False
    try:
        parameter.type.option.read(value)
    except options.Refused:
        return True
    return False


GROUPS = sorted({(program, path) for program, path, _ in parameters()})


@pytest.mark.parametrize(
    ("program", "path"), GROUPS, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
def test_every_option_ends_in_one_line_or_in_the_work(
    program: str,
    path: tuple[str, ...],
    ground: Path,
    tmp_path: Path,
    cut_off: list[RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = demos_main.main if program == "demos" else benchmarks_main.main
    ends: Counter[str] = Counter()
    for _, _, parameter in (each for each in parameters() if each[:2] == (program, path)):
        for number, value in enumerate(values_for(parameter)):
            fresh = tmp_path / f"{parameter.name}-{number}"
            fresh.mkdir()
            others = [a for name, given in needs(ground, fresh, path).items() if name != parameter.name for a in given]
            with monkeypatch.context() as patch:
                if path in WORK and not (isinstance(parameter, click.Argument) and parameter.name in READS):
                    patch.setattr(WORK[path], begin)
                options_first = [*path, *others, *argument_of(parameter, value)]
                if isinstance(parameter, click.Argument):
                    options_first = [*path, *positioned(parameter, value, path, ground, fresh)]
                code, stderr = run(main, patch, options_first)
            where = f"{' '.join(path)} {parameter.name}={value[:20]!r}: {stderr}"
            if code == "accepted":
                ends["accepted"] += 1
                assert not impossible(parameter, value), where
                continue
            line = complaint(stderr)
            ends[f"exit {code}"] += 1
            assert code in (1, 2), where
            if impossible(parameter, value):
                named = any(name in line for name in (*parameter.opts, parameter.human_readable_name))
                assert code == 2 and named and "expected" in line and options.shown(value) in line, where
    print(program, " ".join(path), dict(ends))


def positioned(parameter: click.Parameter, value: str, path: tuple[str, ...], ground: Path, fresh: Path) -> list[str]:
    """Options first, then all arguments in their order with `value` in its place."""
    given = needs(ground, fresh, path)
    command = next(found for where, found in all_commands() if where == path)
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    named = {each.name for each in arguments}
    before = [a for name, more in given.items() if name not in named for a in more]
    places = [
        [value] if each is parameter or each.name == parameter.name else given.get(str(each.name), [])
        for each in arguments
    ]
    return [*before, "--", *(a for place in places for a in place)]


def all_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield from commands(demos_main.cli)
    yield from commands(benchmarks_main.cli)


# --- what a command was given is what a run is configured with -------------------------------------------------------

OF_TREES = ("--no-dp", "--model", "trees")
# Option of `train` -> (table, field) of a run's configuration, and what else has to be said for it to mean anything.
FIELDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "clients": ("data", "clients", ()),
    "test_windows": ("data", "test_windows", ()),
    "customers": ("data", "customers", ()),
    "fraud_share": ("data", "fraud_share", ()),
    "terminal_frauds": ("data", "terminal_frauds", ()),
    "compromise_shortest": ("data", "compromise_shortest", ()),
    "compromise_longest": ("data", "compromise_longest", ()),
    "compromise_mean": ("data", "compromise_mean", ()),
    "compromise_least": ("data", "compromise_least", ()),
    "compromise_most": ("data", "compromise_most", ()),
    "rounds": ("", "rounds", ()),
    "seed": ("", "seed", ()),
    "threads": ("", "threads", ()),
    "epsilon": ("privacy", "epsilon", ()),
    "delta": ("privacy", "delta", ()),
    "update_norm": ("privacy", "update_norm", ("--unit", "client")),
    "colluders": ("privacy", "colluders", ()),
    "sample_rate": ("privacy", "sample_rate", ()),
    "local_steps": ("privacy", "steps", ()),
    "max_grad_norm": ("privacy", "max_grad_norm", ()),
    "expected_batch": ("privacy", "expected_batch", ()),
    "rows_per_bank": ("privacy", "rows_per_bank", ()),
    "constants_share": ("constants", "budget_share", ()),
    "min_banks": ("statistics", "min_banks", ()),
    "history_days": ("model", "history_days", ("--model", "noisy-or")),
    "increment_days": ("statistics", "increment_days", ()),
    "statistics_share": ("statistics", "budget_share", ()),
    "local_epochs": ("training", "epochs", ("--no-dp",)),
    "batch_size": ("training", "batch_size", ("--no-dp",)),
    "pos_weight": ("training", "pos_weight", ()),
    "lr": ("training", "learning_rate", ()),
    "trees": ("trees", "trees", OF_TREES),
    "depth": ("trees", "depth", OF_TREES),
    "learning_rate": ("trees", "rate", OF_TREES),
    "bins": ("trees", "bins", OF_TREES),
    "tree_penalty": ("trees", "penalty", OF_TREES),
    "class_weight": ("trees", "class_weight", OF_TREES),
    "least_rows": ("trees", "least_rows", OF_TREES),
    "row_share": ("trees", "row_share", OF_TREES),
    "column_share": ("trees", "column_share", OF_TREES),
    "patience": ("trees", "patience", OF_TREES),
    "clip": ("aggregation", "clip", ()),
    "value_bits": ("aggregation", "value_bits", ()),
    "mu": ("algorithm", "mu", ("--algorithm", "fedprox")),
    "server_lr": ("algorithm", "server_lr", ("--algorithm", "fedadam")),
    "beta1": ("algorithm", "beta1", ("--algorithm", "fedadam")),
    "beta2": ("algorithm", "beta2", ("--algorithm", "fedadam")),
    "tau": ("algorithm", "tau", ("--algorithm", "fedadam")),
    "buffer": ("algorithm", "buffer", ("--algorithm", "fedbuff")),
    "max_weight": ("algorithm", "max_weight", ("--algorithm", "fedbuff")),
    "fraction": ("participation", "fraction", ("--vanish-after", "0.5")),
    "quorum": ("participation", "quorum", ("--vanish-after", "0.5")),
    "vanish_before": ("participation", "vanish_before", ("--fraction", "0.5")),
    "vanish_after": ("participation", "vanish_after", ("--fraction", "0.5")),
    "retries": ("participation", "retries", ("--fraction", "0.5")),
    "bank_memory_mb": ("resources", "memory_mb", ()),
    "bank_seconds": ("resources", "seconds", ()),
    "bank_bytes": ("resources", "bytes_per_round", ()),
    "byzantine": ("robust", "byzantine", ("--robust", "nnm")),
    "attackers": ("attack", "attackers", ("--attack", "ipm")),
}
TABLES: dict[str, type] = {
    "": RunConfig,
    "data": DataSettings,
    "privacy": PrivacySettings,
    "statistics": StatisticsSettings,
    "model": ModelSettings,
    "training": LocalTraining,
    "aggregation": AggregationSettings,
    "algorithm": AlgorithmSettings,
    "participation": ParticipationSettings,
    "resources": ResourceSettings,
    "constants": ConstantsSettings,
    "robust": RobustSettings,
    "attack": AttackSettings,
    "trees": TreeSettings,
}
NARROWER = {"lr", "buffer"}  # at the command line: a rate that is chosen by the noise is one that is left out


def numbers_of_train() -> dict[str, options.Real | options.Whole]:
    return {
        name: option.what
        for name, option in TRAIN_OPTIONS.items()
        if isinstance(option.what, options.Real | options.Whole)
    }


def test_every_number_of_train_has_its_place_in_the_configuration_and_its_range() -> None:
    numbers = numbers_of_train()
    assert set(numbers) == set(FIELDS)
    for name, (table, field, _) in FIELDS.items():
        held = TABLES[table]
        if name not in NARROWER:
            assert options.declared(held)[field][0] == numbers[name], name


@pytest.mark.parametrize("name", FIELDS)
def test_both_ends_of_a_range_arrive_as_they_were_given(
    name: str, cut_off: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 among them: what is given is never taken for left out."""
    option, (table, field, others) = numbers_of_train()[name], FIELDS[name]
    width = option.high - option.low
    low = option.low + 1e-3 * width if getattr(option, "above", False) else option.low
    high = option.high - 1e-3 * width if getattr(option, "below", False) else option.high
    for value in (low, high):
        word = repr(option.of(value))
        code, stderr = run(demos_main.main, monkeypatch, ["train", *others, *f"{flag(name)}={word}".split()])
        assert code == "accepted", stderr
        config = cut_off[-1]
        assert getattr(getattr(config, table) if table else config, field) == value


def test_too_little_memory_is_one_line(cut_off: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 64.0 GiB")

    monkeypatch.setattr("secagg.run_round", too_large)
    code, stderr = run(demos_main.main, monkeypatch, ["round", "--length", "10", "--clients", "3"])
    assert code == 1
    assert complaint(stderr).endswith("too little memory for this command: Unable to allocate 64.0 GiB")
