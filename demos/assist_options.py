"""What the options of `demos assist` mean, and how its stories are run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from demos.console import err, progress
from demos.options import FilePath, Range
from fl import options as declared

if TYPE_CHECKING:
    from fl.assist.session import Session, Settings
    from fl.assist.stories import DataChoice, Effort

F = TypeVar("F", bound=Callable[..., Any])
FILE = FilePath(dir_okay=False)
FOLDER = FilePath(file_okay=False)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")


def _options(*made: Callable[[Any], Any]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(made):
            command = option(command)
        return command

    return add


data_options = _options(
    click.option(
        "--data",
        default="simulated",
        type=Range(declared.FILE),
        metavar="FILE|simulated",
        help="File of all banks' transactions, or the embedded data.",
    ),
    click.option(
        "--schema",
        type=Range(declared.FILE),
        metavar="NAME|FILE.toml",
        help="What the columns mean. Default: recognised by the header.",
    ),
    click.option(
        "--partition",
        type=Range(declared.Text("a column, or FILE.csv:COLUMN")),
        metavar="COLUMN|FILE.csv:COLUMN",
        help="Column that says which bank holds which row.",
    ),
    click.option(
        "--clients", type=Range(declared.QUORUM), help="Number of banks. Cannot be combined with --partition."
    ),
    click.option("--customers", type=Range(declared.CUSTOMERS), help="Number of customers in the embedded data."),
    click.option("--fraud-share", type=Range(declared.FRAUD_SHARE), help="Share of frauds in the embedded data."),
    click.option(
        "--test-windows",
        type=Range(declared.TEST_WINDOWS),
        help="Number of consecutive test weeks. Default: the schema's.",
    ),
    click.option(
        "--seed", default=0, type=Range(declared.SEED), help="Seed of data, models, offline rules and bootstrap."
    ),
)
effort_options = _options(
    click.option(
        "--rounds", default=5, type=Range(declared.SOME_ROUNDS), help="Rounds of training, with unencrypted sums."
    ),
    click.option(
        "--repeats", default=3, type=Range(declared.REPEATS), help="Number of trainings, each with its own seed."
    ),
    click.option("--replicates", default=1000, type=Range(declared.REPLICATES), help="Replicates of the bootstrap."),
)
provider_options = _options(
    click.option(
        "--provider",
        type=click.Choice(["offline", "openai"]),
        default="offline",
        help="offline: rules on this machine. Setting OPENAI_API_KEY does not change this option.",
    ),
    click.option(
        "--model",
        type=Range(declared.Text("a model's name")),
        help="With openai: name of the model. There is no default.",
    ),
    click.option(
        "--api",
        type=click.Choice(["responses", "chat"]),
        default="responses",
        help="With openai: the interface. Use chat with OPENAI_BASE_URL for local servers.",
    ),
    click.option(
        "--allow",
        multiple=True,
        type=Range(declared.COLUMN),
        metavar="NAME",
        help="Column that may be sent, redacted. Can be repeated.",
    ),
    click.option("--customer-list", type=FILE, help="File with the names of the bank's customers, one per line."),
    click.option("--no-customer-list", is_flag=True, help="Send redacted text without a list of customers."),
    click.option(
        "--min-customers",
        default=10,
        type=Range(declared.MIN_CUSTOMERS),
        help="Number of customers who must use a word before it may be sent.",
    ),
    click.option(
        "--max-tokens",
        default=100_000,
        type=Range(declared.TOKENS),
        help="Largest number of tokens in the log of the work folder.",
    ),
    click.option("--max-cost", type=Range(declared.COST), help="Largest cost. Needs --price-in and --price-out."),
    click.option("--price-in", type=Range(declared.PRICE), help="Price of a million input tokens."),
    click.option("--price-out", type=Range(declared.PRICE), help="Price of a million output (or training) tokens."),
    click.option(
        "--timeout", default=60.0, type=Range(declared.TIMEOUT), help="Seconds that one attempt may take in all."
    ),
    click.option("--max-retries", default=2, type=Range(declared.SDK_RETRIES), help="Retries by the SDK."),
    click.option(
        "--ask-again", is_flag=True, help="Ask again, and pay again, where an answer was refused or malformed."
    ),
    click.option(
        "--dry-run", is_flag=True, help="Print exactly what would be sent, one request per line. Send nothing."
    ),
    click.option("--work", default="runs/assist", type=FOLDER, help="Folder of log, cache and results."),
)


class Bars:
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


def run_story(
    options: dict[str, Any], story: Callable[[Any], dict[str, Any]], *, with_label: bool = False
) -> dict[str, Any] | None:
    """The story's result; None when it was a dry run, which has shown what would be sent."""
    from fl.assist.errors import NotSent
    from fl.assist.session import Session

    one_thread()
    settings = settings_of(options)

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


def settings_of(options: dict[str, Any]) -> Settings:
    """The options of `provider_options`, checked against each other. Raises `click.UsageError`."""
    from fl.assist.account import Prices, SpendingLimits
    from fl.assist.session import Settings, read_customer_list

    if options["dry_run"] and options["provider"] == "offline":
        raise click.UsageError("--dry-run shows what --provider openai would send. The provider offline sends nothing.")
    if options["customer_list"] and options["no_customer_list"]:
        raise click.UsageError("--customer-list cannot be combined with --no-customer-list")
    if options["provider"] == "openai" and not options["model"]:
        raise click.UsageError("--provider openai needs --model NAME: there is no default")
    if (options["price_in"] is None) != (options["price_out"] is None):
        raise click.UsageError("--price-in and --price-out must be given together")
    names: tuple[str, ...] | None = () if options["no_customer_list"] else None
    if options["customer_list"]:
        names = read_customer_list(options["customer_list"])
    prices = None if options["price_in"] is None else Prices(options["price_in"], options["price_out"])
    return Settings(
        work=options["work"],
        provider=options["provider"],
        model=options["model"],
        api=options["api"],
        limits=SpendingLimits(options["max_tokens"], options["max_cost"], prices),
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


def choice_of(options: dict[str, Any]) -> DataChoice:
    """The options of `data_options`."""
    from fl.assist.stories import DataChoice

    names = ("data", "schema", "partition", "clients", "customers", "fraud_share", "test_windows", "seed")
    return DataChoice(**{name: options[name] for name in names})


def effort_of(options: dict[str, Any]) -> Effort:
    """The options of `effort_options`."""
    from fl.assist.stories import Effort

    return Effort(options["rounds"], options["repeats"], options["replicates"])


def one_thread() -> None:
    """Let torch use one thread: fastest for models this small."""
    import torch

    torch.set_num_threads(1)


def need_openai(options: dict[str, Any]) -> None:
    """For commands that only make sense when something is sent. Raises `click.UsageError`."""
    if options["provider"] != "openai":
        raise click.UsageError("this command sends data: add --provider openai and --model NAME")
