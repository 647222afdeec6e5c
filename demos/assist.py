"""`demos assist`: what a language model may help with, without seeing a customer.

Options and tables only; what happens is in `fl.assist`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from demos.console import err, out, print_json, progress, size, table

if TYPE_CHECKING:
    from fl.assist.session import Session
    from fl.assist.stories import DataChoice, Effort

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")


def _options(*made: Callable[[Any], Any]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(made):
            command = option(command)
        return command

    return add


_data = _options(
    click.option("--data", default="simulated", metavar="FILE|simulated", help="Transactions of all banks."),
    click.option("--schema", metavar="NAME|FILE.toml", help="What the columns mean; recognised if left out."),
    click.option("--partition", metavar="COLUMN|FILE.csv:COLUMN", help="Which bank holds which row."),
    click.option("--clients", type=click.IntRange(3), help="So many banks; not beside --partition."),
    click.option("--customers", type=click.IntRange(10), help="Customers of the embedded generator."),
    click.option("--fraud-share", type=float, help="Share of frauds of the embedded generator."),
    click.option("--test-windows", type=click.IntRange(1), help="Consecutive test weeks; the schema's if left out."),
    click.option("--seed", default=0, help="Of data, models, offline rules and bootstrap."),
)
_effort = _options(
    click.option("--rounds", default=5, type=click.IntRange(1), help="Of training, in plain sight."),
    click.option("--repeats", default=3, type=click.IntRange(1), help="Trainings with other seeds."),
    click.option("--replicates", default=1000, type=click.IntRange(100), help="Of the bootstrap."),
)
_provider = _options(
    click.option(
        "--provider",
        type=click.Choice(["offline", "openai"]),
        default="offline",
        help="offline: plain rules on this machine. OPENAI_API_KEY alone changes nothing.",
    ),
    click.option("--model", help="With openai: the model. None is built in."),
    click.option(
        "--api",
        type=click.Choice(["responses", "chat"]),
        default="responses",
        help="With openai: chat is for local servers, with OPENAI_BASE_URL.",
    ),
    click.option("--allow", multiple=True, metavar="NAME", help="This column may leave, redacted. Repeatable."),
    click.option("--customer-list", type=_FILE, help="Names of the bank's customers, one a line."),
    click.option("--no-customer-list", is_flag=True, help="Send redacted text without such a list."),
    click.option("--min-customers", default=10, type=click.IntRange(1), help="Who must use a word before it leaves."),
    click.option("--max-tokens", default=100_000, type=click.IntRange(0), help="Budget of the work folder's log."),
    click.option("--max-cost", type=float, help="Budget in money; needs both prices."),
    click.option("--price-in", type=float, help="Per million input tokens."),
    click.option("--price-out", type=float, help="Per million output (or training) tokens."),
    click.option("--timeout", default=60.0, help="Seconds per attempt."),
    click.option("--max-retries", default=2, type=click.IntRange(0), help="Of the SDK."),
    click.option("--ask-again", is_flag=True, help="Pay again for what was refused or malformed before."),
    click.option("--dry-run", is_flag=True, help="Print exactly what would be sent, one request a line; send nothing."),
    click.option("--work", default="runs/assist", type=_FOLDER, help="Log, cache and results."),
)


@click.group("assist")
def assist() -> None:
    """Synthetic fraud, text features, alert review and fine-tuning files, behind a privacy gateway.

    \b
    python -m demos assist synth --scenario "small test charges at night, then a large one" --rows 120
    python -m demos assist approve runs/assist/synthetic --accept-unflagged --by "your name"
    python -m demos assist compare runs/assist/synthetic
    python -m demos assist features
    python -m demos assist review --count 100
    python -m demos assist status
    """


@assist.command("synth")
@click.option("--scenario", required=True, help="What happens, in a fraud expert's words.")
@click.option("--rows", default=120, type=click.IntRange(2, 10_000), help="Transactions to ask for.")
@click.option("--with-aggregates", is_flag=True, help="Send averages over all banks, released by an encrypted sum.")
@_data
@_provider
@_JSON
def synth(scenario: str, rows: int, with_aggregates: bool, as_json: bool, **options: Any) -> None:
    """Invent transactions of a scenario, check them, and write a file for the reviewers.

    \b
    python -m demos assist synth --scenario "a stolen card, five times the usual amounts" --work runs/theft
    python -m demos assist synth --scenario "small test charges" --provider openai --model NAME --dry-run
    """
    from fl.assist.stories import make_synthetic

    folder = options["work"] / "synthetic"
    result = _run(
        options,
        lambda sessions: make_synthetic(
            _choice(options), sessions, scenario, rows, folder, with_aggregates=with_aggregates, progress=_Bars()
        ),
    )
    _show(result, as_json, _show_synthetic)


@assist.command("approve")
@click.argument("folder", type=_FOLDER)
@click.option("--accept-unflagged", is_flag=True, help="Accept every undecided row without findings.")
@click.option("--by", "reviewer", default="", help="Who answers for that.")
@_JSON
def approve(folder: Path, accept_unflagged: bool, reviewer: str, as_json: bool) -> None:
    """Check the decisions in FOLDER/approval.csv; fill in decision (accept or reject) and reviewer there.

    \b
    python -m demos assist approve runs/assist/synthetic
    python -m demos assist approve runs/assist/synthetic --accept-unflagged --by "your name"
    """
    from fl.assist.approval import open_proposal

    proposal = open_proposal(folder)
    if accept_unflagged:
        if not reviewer.strip():
            raise click.UsageError("--accept-unflagged needs --by NAME: someone answers for it")
        proposal.accept_unflagged(reviewer)
    _show({"file": str(proposal.csv), **proposal.approval().as_json()}, as_json, _show_pairs("Decisions"))


@assist.command("compare")
@click.argument("folder", type=_FOLDER)
@_effort
@_JSON
def compare(folder: Path, as_json: bool, **options: Any) -> None:
    """Train with and without the accepted rows of FOLDER, on the data they were made for.

    \b
    python -m demos assist compare runs/assist/synthetic
    """
    from fl.assist.stories import compare_synthetic

    _one_thread()
    _show(compare_synthetic(folder, _effort_of(options), _Bars()), as_json, _show_comparison)


@assist.command("features")
@click.option("--column", help="The text column, where there are several.")
@click.option("--no-compare", is_flag=True, help="Leave out the comparison.")
@_data
@_effort
@_provider
@_JSON
def features(column: str | None, no_compare: bool, as_json: bool, **options: Any) -> None:
    """Category, sentiment, urgency and entities of descriptions, and what they are worth as inputs.

    \b
    python -m demos assist features
    python -m demos assist features --provider openai --model NAME --allow DESCRIPTION --no-customer-list --dry-run
    """
    from fl.assist.stories import describe_texts

    effort = None if no_compare else _effort_of(options)
    result = _run(options, lambda sessions: describe_texts(_choice(options), sessions, column, effort, _Bars()))
    _show(result, as_json, _show_features)


@assist.command("review")
@click.option("--count", default=100, type=click.IntRange(1, 1000), help="Highest-scored alerts of the last test week.")
@_data
@_effort
@_provider
@_JSON
def review(count: int, as_json: bool, **options: Any) -> None:
    """A second look at the highest-scored alerts; orders the queue and overrides no score.

    \b
    python -m demos assist review --count 100
    python -m demos assist review --provider openai --model NAME --allow score --allow AMOUNT --dry-run
    """
    from fl.assist.stories import review_alerts

    result = _run(
        options, lambda sessions: review_alerts(_choice(options), sessions, count, _effort_of(options), _Bars())
    )
    _show(result, as_json, _show_review)


@assist.group("finetune")
def finetune() -> None:
    """Examples for fine-tuning a hosted model, and a local text head from the same files.

    OpenAI takes no new self-serve fine-tuning jobs from 2027-01-06 on; `local` needs nobody.

    \b
    python -m demos assist finetune propose --rows 400
    python -m demos assist finetune build runs/assist/examples/* --accept-unflagged --by "your name"
    python -m demos assist finetune local runs/assist/examples/*/examples.jsonl
    """


@finetune.command("propose")
@click.option("--column", help="The text column, where there are several.")
@click.option("--rows", default=400, type=click.IntRange(10), help="Per bank; half of them frauds if there are.")
@_data
@_provider
@_JSON
def finetune_propose(column: str | None, rows: int, as_json: bool, **options: Any) -> None:
    """Redacted descriptions with labels, one approval file per bank. Nothing is sent.

    \b
    python -m demos assist finetune propose --rows 400
    """
    from fl.assist.stories import propose_examples

    folder = options["work"] / "examples"
    result = _run(
        {**options, "provider": "offline"},
        lambda sessions: propose_examples(_choice(options), sessions, column, rows, folder),
    )
    _show(result, as_json, _show_proposals)


@finetune.command("build")
@click.argument("folders", nargs=-1, required=True, type=_FOLDER)
@click.option("--accept-unflagged", is_flag=True, help="Accept every undecided example without findings.")
@click.option("--by", "reviewer", default="", help="Who answers for that.")
@_JSON
def finetune_build(folders: tuple[Path, ...], accept_unflagged: bool, reviewer: str, as_json: bool) -> None:
    """Write the accepted examples of each FOLDER as JSONL, checked and counted.

    \b
    python -m demos assist finetune build runs/assist/examples/* --accept-unflagged --by "your name"
    """
    from fl.assist.approval import open_proposal
    from fl.assist.examples import ENDING
    from fl.assist.stories import build_examples

    if accept_unflagged and not reviewer.strip():
        raise click.UsageError("--accept-unflagged needs --by NAME: someone answers for it")
    files = []
    for folder in folders:
        if accept_unflagged:
            open_proposal(folder, "examples").accept_unflagged(reviewer)
        files.append(build_examples(folder).as_json())
    _show({"files": files, "note": ENDING}, as_json, _show_files)


@finetune.command("local")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--rounds", default=10, type=click.IntRange(1))
@_JSON
def finetune_local(files: tuple[Path, ...], rounds: int, as_json: bool) -> None:
    """Train a text head from one file per bank, in encrypted rounds.

    \b
    python -m demos assist finetune local runs/assist/examples/*/examples.jsonl
    """
    from fl.assist.stories import Effort, local_text_head

    _one_thread()
    if len(files) < 3:
        raise click.UsageError(f"expected one file per bank, at least 3, got {len(files)}")
    result = local_text_head(list(files), Effort(rounds=rounds), _Bars())
    _show(result, as_json, _show_pairs("A local text head", skip=("files",)))


@finetune.command("submit")
@click.argument("file", type=_FILE)
@click.option("--epochs", default=3, type=click.IntRange(1, 50))
@_data
@_provider
@_JSON
def finetune_submit(file: Path, epochs: int, as_json: bool, **options: Any) -> None:
    """Upload FILE and start a job at OpenAI. Needs --provider openai, --model, and --allow for text and label.

    \b
    python -m demos assist finetune submit runs/assist/examples/bank-0/examples.jsonl --dry-run \\
        --provider openai --model NAME --allow DESCRIPTION --allow IS_FRAUD --no-customer-list --max-tokens 1000000
    """
    from datetime import UTC, datetime

    from fl.assist.examples import ENDING
    from fl.assist.stories import submit_examples

    _need_openai(options)
    err.print(f"[bold]{ENDING}[/]", highlight=False)
    today = datetime.now(UTC).date()
    result = _run(
        options,
        lambda sessions: submit_examples(file, _choice(options), sessions, epochs, today),
        with_label=True,
    )
    _show(result, as_json, _show_pairs("Fine-tuning job"))


@finetune.command("status")
@click.argument("job")
@_provider
@_JSON
def finetune_status(job: str, as_json: bool, **options: Any) -> None:
    """State of a job.

    \b
    python -m demos assist finetune status JOB --provider openai --model NAME
    """
    from fl.assist.session import open_openai

    _need_openai(options)
    found = open_openai(_settings({**options, "seed": 0})).fine_tuning_status(job)
    _show(found, as_json, _show_pairs("Fine-tuning job"))


@assist.command("status")
@click.option("--work", default="runs/assist", type=_FOLDER, help="Folder with the log.")
@_JSON
def status(work: Path, as_json: bool) -> None:
    """What has left this machine so far: attempts, bytes, tokens and cost, from the log.

    \b
    python -m demos assist status
    """
    from fl.assist.session import status as sums

    _show(sums(work), as_json, _show_pairs("Sent so far"))


class _Bars:
    """One progress line after another, a new one whenever the work changes its name."""

    def __init__(self) -> None:
        self._name = ""
        self._advance: Callable[[int], None] = lambda _: None
        self._bar = ExitStack()

    def __call__(self, name: str, done: int, total: int) -> None:
        if name != self._name:
            self._bar.close()
            self._name = name
            self._advance = self._bar.enter_context(progress(name, total))
        self._advance(done)
        if done >= total:
            self._bar.close()
            self._name = ""


def _run(
    options: dict[str, Any], story: Callable[[Any], dict[str, Any]], *, with_label: bool = False
) -> dict[str, Any] | None:
    """The story's result; None when it was a dry run, which has shown what would be sent."""
    from fl.assist.errors import NotSent
    from fl.assist.session import Session

    _one_thread()
    settings = _settings(options)

    def session_for(schema: Any) -> Session:
        return Session(settings, schema, with_label=with_label)

    try:
        result = story(session_for)
    except NotSent:
        result = None
    if settings.dry_run is not None:
        err.print("dry run: nothing was sent", highlight=False)
        return None
    return result


def _settings(options: dict[str, Any]) -> Any:
    from fl.assist.account import Limits, Prices
    from fl.assist.session import Settings, read_customer_list

    if options["dry_run"] and options["provider"] == "offline":
        raise click.UsageError("--dry-run shows what --provider openai would send; offline sends nothing")
    if options["customer_list"] and options["no_customer_list"]:
        raise click.UsageError("--customer-list and --no-customer-list contradict each other")
    if options["provider"] == "openai" and not options["model"]:
        raise click.UsageError("--provider openai needs --model: none is built in")
    if (options["price_in"] is None) != (options["price_out"] is None):
        raise click.UsageError("give both --price-in and --price-out")
    names: tuple[str, ...] | None = () if options["no_customer_list"] else None
    if options["customer_list"]:
        names = read_customer_list(options["customer_list"])
    prices = None if options["price_in"] is None else Prices(options["price_in"], options["price_out"])
    return Settings(
        work=options["work"],
        provider=options["provider"],
        model=options["model"],
        api=options["api"],
        limits=Limits(options["max_tokens"], options["max_cost"], prices),
        timeout_s=options["timeout"],
        max_retries=options["max_retries"],
        allow=options["allow"],
        customer_list=names,
        min_customers=options["min_customers"],
        ask_again=options["ask_again"],
        dry_run=_print_body if options["dry_run"] else None,
        seed=options["seed"],
    )


def _print_body(body: bytes) -> None:
    sys.stdout.write(body.decode("utf-8", errors="replace") + "\n")


def _choice(options: dict[str, Any]) -> DataChoice:
    from fl.assist.stories import DataChoice

    names = ("data", "schema", "partition", "clients", "customers", "fraud_share", "test_windows", "seed")
    return DataChoice(**{name: options[name] for name in names})


def _effort_of(options: dict[str, Any]) -> Effort:
    from fl.assist.stories import Effort

    return Effort(options["rounds"], options["repeats"], options["replicates"])


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # fastest for models this small


def _need_openai(options: dict[str, Any]) -> None:
    if options["provider"] != "openai":
        raise click.UsageError("this sends something: say --provider openai and --model NAME")


def _show(result: dict[str, Any] | None, as_json: bool, shown: Callable[[dict[str, Any]], None]) -> None:
    if result is None:
        return
    if as_json:
        print_json(result)
        return
    shown(result)
    if isinstance(result.get("made_by"), dict):
        out.print(f"made by {result['made_by']['note']}", highlight=False, markup=False, soft_wrap=True)


def _show_pairs(title: str, skip: tuple[str, ...] = ()) -> Callable[[dict[str, Any]], None]:
    def shown(result: dict[str, Any]) -> None:
        made = table(title, "what", "value")
        for key, value in result.items():
            if key in skip:
                continue
            text = (
                size(value) if key.startswith("bytes") else f"{value:.4g}" if isinstance(value, float) else str(value)
            )
            made.add_row(key.replace("_", " "), text)
        out.print(made, markup=False)

    return shown


def _show_synthetic(result: dict[str, Any]) -> None:
    found = result["validation"]
    made = table("Synthetic transactions", "what", "value", right=(1,))
    made.add_row("rows", str(found["rows"]))
    made.add_row("frauds", str(result["frauds"]))
    made.add_row("cannot be approved", str(found["blocked"]))
    for kind, count in found["found"].items():
        made.add_row(f"  found: {kind}", str(count))
    out.print(made)
    like = table(
        "Likeness to each bank's own rows", "bank", "copies", "nearer to training", "detector AUC", right=(1, 2, 3)
    )
    for figures in found["likeness"]:
        auc = figures["detector_auc"]
        like.add_row(
            figures["bank"],
            str(figures["copies"]),
            f"{figures['nearer_to_training']:.2f}",
            "-" if auc is None else f"{auc:.3f}",
        )
    out.print(like)
    out.print(f"decide in: {result['approval_file']}", highlight=False, markup=False, soft_wrap=True)


def _show_comparison(result: dict[str, Any]) -> None:
    found = result["comparison"]
    made = table(
        f"Average precision, mean of {found['windows']} test windows", "model", "average precision", right=(1,)
    )
    made.add_row("without", f"{found['unchanged']:.4f}")
    made.add_row("with", f"{found['changed']:.4f}")
    out.print(made)
    out.print(
        f"difference {found['difference']:+.4f}, {100 * found['confidence']:.0f} % interval "
        f"{found['low']:+.4f} to {found['high']:+.4f}: {found['verdict']}",
        highlight=False,
    )


def _show_features(result: dict[str, Any]) -> None:
    made = table(f"Traits of {result['texts']} different descriptions", "trait", "mean over rows", right=(1,))
    for name, mean in result["shares"].items():
        made.add_row(name, f"{mean:.4f}")
    out.print(made, markup=False)
    for reason, count in result["unanswered"].items():
        out.print(f"unanswered: {count} ({reason})", highlight=False, markup=False)
    if "comparison" in result:
        _show_comparison(result)


def _show_review(result: dict[str, Any]) -> None:
    made = table(f"{result['alerts']} alerts, {result['frauds']} frauds", "verdict", "alerts", "frauds", right=(1, 2))
    for verdict, counts in result["verdicts"].items():
        made.add_row(verdict, str(counts["alerts"]), str(counts["frauds"]))
    out.print(made)
    columns = ("first", "by score", "by verdict", "difference, 95 % interval")
    depth = table("Share of frauds at the head of the queue", *columns, right=(0, 1, 2, 3))
    for row in result["agreement"]:
        interval = f"{row['by_queue'] - row['by_score']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        depth.add_row(str(row["depth"]), f"{row['by_score']:.3f}", f"{row['by_queue']:.3f}", interval)
    out.print(depth)


def _show_proposals(result: dict[str, Any]) -> None:
    made = table("Examples to decide about", "folder", "candidates", right=(1,))
    for proposal in result["proposals"]:
        made.add_row(proposal["folder"], str(proposal["candidates"]))
    out.print(made, markup=False)


def _show_files(result: dict[str, Any]) -> None:
    columns = ("folder", "examples", "frauds", "tokens, at most", "tokens, a guess")
    made = table("Examples", *columns, right=(1, 2, 3, 4))
    for file in result["files"]:
        cells = (file["examples"], file["frauds"], file["tokens_at_most"], file["tokens_guessed"])
        made.add_row(Path(file["file"]).parent.name, *map(str, cells))
    out.print(made, markup=False)
    out.print(result["note"], highlight=False, markup=False)
