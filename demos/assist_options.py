"""What the options of `demos assist` mean, and how its stories are run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from demos.console import err, progress
from demos.options import FilePath, ranged
from fl import options as declared

if TYPE_CHECKING:
    from fl.assist.session import Session, Settings
    from fl.assist.stories import DataChoice, Effort

F = TypeVar("F", bound=Callable[..., Any])
FILE = FilePath(dir_okay=False)
FOLDER = FilePath(file_okay=False)


def _options(*made: Callable[[Any], Any]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(made):
            command = option(command)
        return command

    return add


data_options = _options(
    ranged(
        "--data",
        declared.FILE,
        "File of all banks' transactions, or the embedded data.",
        default="simulated",
        metavar="FILE|simulated",
    ),
    ranged(
        "--schema", declared.FILE, "What the columns mean. Default: recognised by the header.", metavar="NAME|FILE.toml"
    ),
    ranged(
        "--partition",
        declared.Text("a column, or FILE.csv:COLUMN"),
        "Column that says which bank holds which row.",
        metavar="COLUMN|FILE.csv:COLUMN",
    ),
    ranged("--clients", declared.QUORUM, "Number of banks. Cannot be combined with --partition."),
    ranged("--customers", declared.CUSTOMERS, "Number of customers in the embedded data."),
    ranged("--fraud-share", declared.FRAUD_SHARE, "Share of frauds in the embedded data."),
    ranged("--test-windows", declared.TEST_WINDOWS, "Number of consecutive test weeks. Default: the schema's."),
    ranged("--seed", declared.SEED, "Seed of data, models, offline rules and bootstrap.", default=0),
)
effort_options = _options(
    ranged("--rounds", declared.SOME_ROUNDS, "Rounds of training, with unencrypted sums.", default=5),
    ranged("--repeats", declared.REPEATS, "Number of trainings, each with its own seed.", default=3),
    ranged("--replicates", declared.REPLICATES, "Replicates of the bootstrap.", default=1000),
)
provider_options = _options(
    click.option(
        "--provider",
        type=click.Choice(["offline", "openai"]),
        default="offline",
        help="offline: rules on this machine. Setting OPENAI_API_KEY does not change this option.",
    ),
    ranged("--model", declared.Text("a model's name"), "With openai: name of the model. There is no default."),
    click.option(
        "--api",
        type=click.Choice(["responses", "chat"]),
        default="responses",
        help="With openai: the interface. Use chat with OPENAI_BASE_URL for local servers.",
    ),
    ranged(
        "--allow", declared.COLUMN, "Column that may be sent, redacted. Can be repeated.", multiple=True, metavar="NAME"
    ),
    click.option("--customer-list", type=FILE, help="File with the names of the bank's customers, one per line."),
    click.option("--no-customer-list", is_flag=True, help="Send redacted text without a list of customers."),
    ranged(
        "--min-customers",
        declared.MIN_CUSTOMERS,
        "Customers who must use a word before it may be sent.",
        default=10,
    ),
    ranged("--max-tokens", declared.TOKENS, "Largest number of tokens in the log of the work folder.", default=100_000),
    ranged("--max-cost", declared.COST, "Largest cost. Needs --price-in and --price-out."),
    ranged("--price-in", declared.PRICE, "Price of a million input tokens."),
    ranged("--price-out", declared.PRICE, "Price of a million output (or training) tokens."),
    ranged("--timeout", declared.TIMEOUT, "Seconds that one attempt may take in all.", default=60.0),
    ranged("--max-retries", declared.SDK_RETRIES, "Retries by the SDK.", default=2),
    click.option(
        "--ask-again", is_flag=True, help="Ask again, and pay again, where an answer was refused or malformed."
    ),
    click.option(
        "--dry-run", is_flag=True, help="Print exactly what would be sent, one request per line. Send nothing."
    ),
    click.option("--work", default="runs/assist", type=FOLDER, help="Folder of log, cache and results."),
)


class Bars:
    """Shows one progress line after another, and a new one whenever the name of the work changes."""

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
    """The result of a story, or None after a dry run, which printed what would be sent."""
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
        err.print("dry run: nothing was sent")
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
    """Refuse the offline provider for commands that must send something. Raises `click.UsageError`."""
    if options["provider"] != "openai":
        raise click.UsageError("this command sends data: add --provider openai and --model NAME")
