"""`demos train`: train a fraud model federatedly, and print its figures with the costs of privacy and encryption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from demos.console import err, print_json, stages
from demos.options import JSON, FilePath, Range, wrong_usage
from demos.train_tables import show
from fl.options import Refused
from fl.runs.train_options import TRAIN_OPTIONS, TrainOption

if TYPE_CHECKING:
    from fl.runs.outline import Outline
    from fl.runs.tree_outline import RandomTreeOutline, TreeOutline

MAY_ACCOMPANY_RESUME = {"resume", "as_json"}
BY_NAME = {name: option for name, option in TRAIN_OPTIONS.items() if option.by_name}


class NamedOption(click.ParamType):
    """NAME=VALUE of one of the options that are given by name."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        if name not in BY_NAME or not equals:
            self.fail(f"expected NAME=VALUE with a name of {', '.join(BY_NAME)}, got {value[:60]!r}", param, ctx)
        try:
            return name, BY_NAME[name].what.read(text)
        except Refused as fault:
            self.fail(f"{name}: {fault}", param, ctx)


class TrainCommand(click.Command):
    """A command whose --help lists the options that are given by name in a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("With --option NAME=VALUE"):
            formatter.write_dl([(name, _help(option)) for name, option in BY_NAME.items()])


def _help(option: TrainOption) -> str:
    return f"{option.help} [default: {option.default}]" if option.default else option.help


def _parameters() -> list[click.Parameter]:
    made: list[click.Parameter] = []
    for name, option in TRAIN_OPTIONS.items():
        if option.by_name:
            continue
        words = [f"--{name.replace('_', '-')}", name]
        if option.is_switch:
            made.append(click.Option(words, is_flag=True, help=_help(option)))
        else:
            made.append(click.Option(words, type=Range(option.what), metavar=option.metavar, help=_help(option)))
    return made


@click.command("train", cls=TrainCommand, params=_parameters())
@click.option(
    "--option",
    "named",
    multiple=True,
    type=NamedOption(),
    metavar="NAME=VALUE",
    help="An option of one algorithm, or a rare one, from the list below. Can be repeated.",
)
@click.option(
    "--config",
    type=FilePath(),
    metavar="RUN|FILE.toml",
    help="Start from the configuration of a run, or from such a file. Options given here replace its values.",
)
@click.option("--run-dir", type=FilePath(), metavar="DIR", help="Folder of this run. Default: a new one under runs/.")
@click.option("--resume", type=FilePath(), metavar="RUN", help="Continue the run in this folder with its own options.")
@JSON
@click.pass_context
def train(
    ctx: click.Context,
    named: tuple[tuple[str, Any], ...],
    config: Path | None,
    run_dir: Path | None,
    resume: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a fraud model at several banks that show each other nothing but an encrypted sum.

    \b
    python -m demos train
    python -m demos train --no-dp --rounds 5 --json
    python -m demos train --data FILE.csv.gz --partition PARTITION.csv:REGION8 --epsilon 3
    python -m demos train --algorithm fedprox --option mu=0.01
    python -m demos train --no-dp --algorithm fedadam --option server_lr=0.03
    python -m demos train --no-dp --algorithm heads --option head=logit
    python -m demos train --no-dp --algorithm fedbuff --clients 5 --option buffer=3 --option durations=1,2,5
    python -m demos train --no-dp --fraction 0.75 --vanish-after 0.1 --quorum 3
    python -m demos train --no-dp --option bits=1:8,6:16 --option layers=hidden1/hidden2,logit
    python -m demos train --no-dp --limits limits.toml --option bank_bytes=100000
    python -m demos train --no-dp --model trees --trees 50 --depth 4 --learning-rate 0.2
    python -m demos train --no-dp --model auto
    python -m demos train --model trees --epsilon 3
    python -m demos train --config runs/NAME --epsilon 8
    python -m demos train --resume runs/NAME
    """
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if resume is not None:
        _refuse_other_options(given)
    from fl.runs import api  # imported here because it imports torch, which --help does not need
    from fl.runs.candidates import asked_for
    from fl.runs.folder import read_config

    with stages() as progress:
        if resume is not None:
            run = api.resume(resume, progress)
        else:
            base = None if config is None else read_config(config)
            with wrong_usage():
                asked = asked_for({name: options[name] for name in given if name in options} | dict(named), base)
            run = api.start(asked, run_dir, progress, _announce)
    if as_json:
        print_json(run.result)
    else:
        show(run.result)


def _announce(outline: Outline | TreeOutline | RandomTreeOutline) -> None:
    """The plan of the run on stderr, before a bank trains."""
    for number, sentence in enumerate(outline.sentences):
        err.print(f"{'plan:' if number == 0 else '     '} {sentence}", soft_wrap=True)


def _refuse_other_options(given: list[str]) -> None:
    for name in given:
        if name not in MAY_ACCOMPANY_RESUME:
            flag = "option" if name == "named" else name.replace("_", "-")
            raise click.UsageError(f"--resume continues with the run's own options: leave out --{flag}")
