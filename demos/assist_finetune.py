"""`demos assist finetune`: make examples for a hosted model, or train a text head on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from demos.assist_options import (
    FILE,
    FOLDER,
    Bars,
    choice_of,
    data_options,
    need_openai,
    one_thread,
    provider_options,
    run_story,
    settings_of,
)
from demos.assist_tables import show, show_files, show_pairs, show_proposals
from demos.console import err
from demos.options import JSON, Range, ranged
from fl import options as declared


@click.group("finetune")
def finetune() -> None:
    """Make examples for fine-tuning a hosted model, or train a local text head with them.

    OpenAI accepts no new self-serve fine-tuning jobs from 2027-01-06 on. `local` needs no other service.

    \b
    python -m demos assist finetune propose --rows 400
    python -m demos assist finetune build runs/assist/examples/* --accept-unflagged --by "your name"
    python -m demos assist finetune local runs/assist/examples/*/examples.jsonl
    """


@finetune.command("propose")
@ranged("--column", declared.COLUMN, "The text column, if there are several.")
@ranged("--rows", declared.EXAMPLE_ROWS, "Examples per bank. Half are frauds, if there are enough.", default=400)
@data_options
@provider_options
@JSON
def finetune_propose(column: str | None, rows: int, as_json: bool, **options: Any) -> None:
    """Write redacted descriptions with labels, and one approval file per bank. Nothing is sent.

    \b
    python -m demos assist finetune propose --rows 400
    """
    from fl.assist.stories import propose_examples

    folder = options["work"] / "examples"
    result = run_story(
        {**options, "provider": "offline"},
        lambda sessions: propose_examples(choice_of(options), sessions, column, rows, folder),
    )
    show(result, as_json, show_proposals)


@finetune.command("build")
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@click.option("--accept-unflagged", is_flag=True, help="Accept every undecided example without findings.")
@click.option("--by", "reviewer", default="", help="Name of the person who answers for it.")
@JSON
def finetune_build(folders: tuple[Path, ...], accept_unflagged: bool, reviewer: str, as_json: bool) -> None:
    """Write the accepted examples of each FOLDER as JSONL, checked and counted.

    \b
    python -m demos assist finetune build runs/assist/examples/* --accept-unflagged --by "your name"
    """
    from fl.assist.approval import open_proposal
    from fl.assist.examples import ENDING
    from fl.assist.stories import build_examples

    if accept_unflagged and not reviewer.strip():
        raise click.UsageError("--accept-unflagged needs --by NAME: the person who answers for it")
    files = []
    for folder in folders:
        if accept_unflagged:
            open_proposal(folder, "examples").accept_unflagged(reviewer)
        files.append(build_examples(folder).as_json())
    show({"files": files, "note": ENDING}, as_json, show_files)


@finetune.command("local")
@click.argument("files", nargs=-1, required=True, type=FILE)
@ranged("--rounds", declared.SOME_ROUNDS, "Number of rounds.", default=10)
@JSON
def finetune_local(files: tuple[Path, ...], rounds: int, as_json: bool) -> None:
    """Train a text head from one file per bank, in encrypted rounds.

    \b
    python -m demos assist finetune local runs/assist/examples/*/examples.jsonl
    """
    from fl.assist.stories import Effort, local_text_head

    one_thread()
    if len(files) < 3:
        raise click.UsageError(f"expected one file per bank, at least 3, got {len(files)}")
    result = local_text_head(list(files), Effort(rounds=rounds), Bars())
    show(result, as_json, show_pairs("A local text head", skip=("files",)))


@finetune.command("submit")
@click.argument("file", type=FILE)
@ranged("--epochs", declared.TUNING_EPOCHS, "Passes over the examples.", default=3)
@data_options
@provider_options
@JSON
def finetune_submit(file: Path, epochs: int, as_json: bool, **options: Any) -> None:
    """Upload FILE and start a job at OpenAI. Needs --provider openai, --model, and --allow for text and label.

    \b
    python -m demos assist finetune submit runs/assist/examples/bank-0/examples.jsonl --dry-run \\
        --provider openai --model NAME --allow DESCRIPTION --allow IS_FRAUD --no-customer-list --max-tokens 1000000
    """
    from datetime import UTC, datetime

    from fl.assist.examples import ENDING
    from fl.assist.stories import submit_examples

    need_openai(options)
    err.print(ENDING, style="bold")
    today = datetime.now(UTC).date()
    result = run_story(
        options,
        lambda sessions: submit_examples(file, choice_of(options), sessions, epochs, today),
        with_label=True,
    )
    show(result, as_json, show_pairs("Fine-tuning job"))


@finetune.command("status")
@click.argument("job", type=Range(declared.Text("a job's name")))
@provider_options
@JSON
def finetune_status(job: str, as_json: bool, **options: Any) -> None:
    """Show the state of a job.

    \b
    python -m demos assist finetune status JOB --provider openai --model NAME
    """
    from fl.assist.session import open_openai

    need_openai(options)
    status = open_openai(settings_of({**options, "seed": 0})).fine_tuning_status(job)
    show(status, as_json, show_pairs("Fine-tuning job"))
