"""`demos assist`: help from a language model that sees no customer data.

Commands only: what their options mean is in `assist_options`, what is shown in `assist_tables`, and what happens in
`fl.assist`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from demos.assist_finetune import finetune
from demos.assist_options import (
    FOLDER,
    Bars,
    choice_of,
    data_options,
    effort_of,
    effort_options,
    one_thread,
    provider_options,
    run_story,
)
from demos.assist_tables import show, show_comparison, show_features, show_pairs, show_review, show_synthetic
from demos.options import JSON, ranged
from fl import options as declared


@click.group("assist")
def assist() -> None:
    """Make synthetic fraud, text features, alert reviews and fine-tuning files, behind a privacy gateway.

    \b
    python -m demos assist synth --scenario "small test charges at night, then a large one" --rows 120
    python -m demos assist approve runs/assist/synthetic --accept-unflagged --by "your name"
    python -m demos assist compare runs/assist/synthetic
    python -m demos assist features
    python -m demos assist review --count 100
    python -m demos assist status
    """


@assist.command("synth")
@ranged("--scenario", declared.Text("a scenario"), "Description of the fraud, in an expert's words.", required=True)
@ranged("--rows", declared.SCENARIO_ROWS, "Number of transactions.", default=120)
@click.option(
    "--with-aggregates", is_flag=True, help="Also send averages over all banks, which an encrypted sum has released."
)
@data_options
@provider_options
@JSON
def synth(scenario: str, rows: int, with_aggregates: bool, as_json: bool, **options: Any) -> None:
    """Invent transactions of a scenario, check them, and write a file for reviewers.

    \b
    python -m demos assist synth --scenario "a stolen card, five times the usual amounts" --work runs/theft
    python -m demos assist synth --scenario "small test charges" --provider openai --model NAME --dry-run
    """
    from fl.assist.stories import make_synthetic

    folder = options["work"] / "synthetic"
    result = run_story(
        options,
        lambda sessions: make_synthetic(
            choice_of(options), sessions, scenario, rows, folder, with_aggregates=with_aggregates, progress=Bars()
        ),
    )
    show(result, as_json, show_synthetic)


@assist.command("approve")
@click.argument("folder", type=FOLDER)
@click.option("--accept-unflagged", is_flag=True, help="Accept every undecided row without findings.")
@click.option("--by", "reviewer", default="", help="Name of the person who answers for it.")
@JSON
def approve(folder: Path, accept_unflagged: bool, reviewer: str, as_json: bool) -> None:
    """Check the decisions in FOLDER/approval.csv.

    Reviewers fill in its columns decision (accept or reject) and reviewer.

    \b
    python -m demos assist approve runs/assist/synthetic
    python -m demos assist approve runs/assist/synthetic --accept-unflagged --by "your name"
    """
    from fl.assist.approval import open_proposal

    proposal = open_proposal(folder)
    if accept_unflagged:
        if not reviewer.strip():
            raise click.UsageError("--accept-unflagged needs --by NAME: the person who answers for it")
        proposal.accept_unflagged(reviewer)
    show({"file": str(proposal.csv), **proposal.approval().as_json()}, as_json, show_pairs("Decisions"))


@assist.command("compare")
@click.argument("folder", type=FOLDER)
@effort_options
@JSON
def compare(folder: Path, as_json: bool, **options: Any) -> None:
    """Train with and without the accepted rows of FOLDER, on the data that they were made for.

    \b
    python -m demos assist compare runs/assist/synthetic
    """
    from fl.assist.stories import compare_synthetic

    one_thread()
    show(compare_synthetic(folder, effort_of(options), Bars()), as_json, show_comparison)


@assist.command("features")
@ranged("--column", declared.COLUMN, "The text column, if there are several.")
@click.option("--no-compare", is_flag=True, help="Do not train with and without the features.")
@data_options
@effort_options
@provider_options
@JSON
def features(column: str | None, no_compare: bool, as_json: bool, **options: Any) -> None:
    """Find category, sentiment, urgency and entities of descriptions, and measure what they are worth as inputs.

    \b
    python -m demos assist features
    python -m demos assist features --provider openai --model NAME --allow DESCRIPTION --no-customer-list --dry-run
    """
    from fl.assist.stories import describe_texts

    effort = None if no_compare else effort_of(options)
    result = run_story(options, lambda sessions: describe_texts(choice_of(options), sessions, column, effort, Bars()))
    show(result, as_json, show_features)


@assist.command("review")
@ranged("--count", declared.ALERTS, "Number of alerts, those with the highest scores.", default=100)
@data_options
@effort_options
@provider_options
@JSON
def review(count: int, as_json: bool, **options: Any) -> None:
    """Review the alerts with the highest scores of the last test week. Changes the order of the queue, never a score.

    \b
    python -m demos assist review --count 100
    python -m demos assist review --provider openai --model NAME --allow score --allow AMOUNT --dry-run
    """
    from fl.assist.stories import review_alerts

    result = run_story(
        options, lambda sessions: review_alerts(choice_of(options), sessions, count, effort_of(options), Bars())
    )
    show(result, as_json, show_review)


assist.add_command(finetune)


@assist.command("status")
@click.option("--work", default="runs/assist", type=FOLDER, help="Folder of the log.")
@JSON
def status(work: Path, as_json: bool) -> None:
    """Show what has left this machine so far, from the log: attempts, bytes, tokens and cost.

    \b
    python -m demos assist status
    """
    from fl.assist.session import status as sums

    show(sums(work), as_json, show_pairs("Sent so far"))
