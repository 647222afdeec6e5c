"""`demos train`: federated fraud detection from data to figures, with what privacy and encryption cost beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from demos.console import print_json, progress
from demos.options import FilePath, Range, wrong_usage
from demos.train_tables import show
from fl import options as declared

if TYPE_CHECKING:
    from fl.rounds.algorithms.settings import AlgorithmSettings, ParticipationSettings
    from fl.rounds.compression import CompressionSettings
    from fl.rounds.limits import ResourceSettings
    from fl.runs.config import RunConfig
    from fl.runs.experiment import Experiment

MAY_ACCOMPANY_RESUME = {"resume", "as_json"}


@click.command("train")
@click.option(
    "--data",
    default="simulated",
    type=Range(declared.FILE),
    metavar="FILE|simulated",
    help="Transactions, or the embedded generator.",
)
@click.option(
    "--schema",
    type=Range(declared.FILE),
    metavar="NAME|FILE.toml",
    help="What the columns mean; recognised by the header if left out.",
)
@click.option(
    "--partition",
    type=Range(declared.Text("a column, or FILE.csv:COLUMN")),
    metavar="COLUMN|FILE.csv:COLUMN",
    help="Which bank holds which row.",
)
@click.option("--clients", type=Range(declared.RANDOM_BANKS), help="So many banks; not beside --partition.")
@click.option(
    "--test-windows",
    type=Range(declared.TEST_WINDOWS),
    help="Consecutive test weeks, averaged; the schema's own if left out.",
)
@click.option("--customers", type=Range(declared.CUSTOMERS), help="Customers of the embedded generator.")
@click.option("--fraud-share", type=Range(declared.FRAUD_SHARE), help="Share of frauds of the embedded generator.")
@click.option("--rounds", type=Range(declared.ROUNDS), help="10 if left out; 100 with --noise shared, one step each.")
@click.option(
    "--epsilon",
    default=3.0,
    type=Range(declared.EPSILON),
    show_default=True,
    help="Budget of every bank for the life of its data.",
)
@click.option("--delta", default=1e-5, type=Range(declared.DELTA), show_default=True)
@click.option("--no-dp", is_flag=True, help="Train without differential privacy.")
@click.option(
    "--unit",
    type=click.Choice(["row", "client"]),
    default="row",
    show_default=True,
    help="What one epsilon is about: a training row and a transaction in counts, or a bank's whole update.",
)
@click.option(
    "--noise",
    type=click.Choice(["own", "shared"]),
    default="own",
    show_default=True,
    help="Each bank's own, which needs no trust, or shares of one noise inside the encrypted sum, which is far less.",
)
@click.option(
    "--update-norm",
    default=1.0,
    type=Range(declared.UPDATE_NORM),
    show_default=True,
    help="L2 bound of an update, with --unit client.",
)
@click.option("--no-shared-statistics", is_flag=True, help="Share no counts of terminals, whatever the schema says.")
@click.option(
    "--min-banks",
    type=Range(declared.BANKS),
    help="Suppress counts with fewer contributing banks; 3 with --no-dp, else 1 (noise protects already).",
)
@click.option(
    "--colluders",
    default=1,
    type=Range(declared.BANKS),
    show_default=True,
    help="Banks, the observing one included, whose noise shares do not count.",
)
@click.option(
    "--statistics-share",
    default=0.5,
    type=Range(declared.BUDGET_SHARE),
    show_default=True,
    help="Share of epsilon that shared counts may spend.",
)
@click.option(
    "--increment-days",
    default=5,
    type=Range(declared.INCREMENT_DAYS),
    show_default=True,
    help="Days of one noisy count.",
)
@click.option(
    "--budget-dir",
    type=Range(declared.FOLDER),
    metavar="DIR",
    help="Where the banks' ledgers live; in the run folder if left out.",
)
@click.option(
    "--sample-rate",
    default=0.25,
    type=Range(declared.SAMPLE_RATE),
    show_default=True,
    help="Probability of a row being in a noisy batch.",
)
@click.option("--local-steps", default=10, type=Range(declared.STEPS), show_default=True, help="Noisy steps per round.")
@click.option(
    "--max-grad-norm",
    default=1.0,
    type=Range(declared.MAX_GRAD_NORM),
    show_default=True,
    help="L2 bound of one row's gradient.",
)
@click.option(
    "--expected-batch",
    default=2048.0,
    type=Range(declared.EXPECTED_BATCH),
    show_default=True,
    help="Public divisor of a noisy gradient.",
)
@click.option(
    "--local-epochs",
    default=16,
    type=Range(declared.EPOCHS),
    show_default=True,
    help="Passes per round, with --no-dp.",
)
@click.option(
    "--batch-size", default=512, type=Range(declared.BATCH_SIZE), show_default=True, help="Rows, with --no-dp."
)
@click.option(
    "--lr",
    type=Range(declared.LEARNING_RATE),
    help="Of sgd; 30 with privacy, 0.1 without, chosen by the noise where it is shared.",
)
@click.option(
    "--pos-weight",
    type=Range(declared.POS_WEIGHT),
    help="Weight of a fraud in the loss, a public constant; 4 if left out.",
)
@click.option(
    "--algorithm",
    type=click.Choice(["fedavg", "fedprox", "fedadam", "heads", "fedbuff"]),
    default="fedavg",
    show_default=True,
    help="What the rounds do; docs/algorithms.md compares them.",
)
@click.option(
    "--mu", type=Range(declared.MU), help="fedprox: weight of the pull back to the global model; 0.01 if left out."
)
@click.option(
    "--server-lr", type=Range(declared.SERVER_LR), help="fedadam: step of the server, 0.03; fedbuff: factor, 1."
)
@click.option("--beta1", type=Range(declared.BETA), help="fedadam: decay of the mean; 0.9 if left out.")
@click.option("--beta2", type=Range(declared.BETA), help="fedadam: decay of the squares; 0.99 if left out.")
@click.option("--tau", type=Range(declared.TAU), help="fedadam: degree of adaptivity; 0.001 if left out.")
@click.option(
    "--head",
    type=Range(declared.LAYERS),
    metavar="LAYERS",
    help="heads: layers that stay at their bank; logit if left out.",
)
@click.option(
    "--buffer", type=Range(declared.SEALED_BUFFER), help="fedbuff: joins at which a round closes; 3 if left out."
)
@click.option(
    "--max-weight", type=Range(declared.MAX_WEIGHT), help="fedbuff: weight of an update that is not stale; 8."
)
@click.option("--durations", metavar="TICKS", help="fedbuff: how long banks train, over and over; 1,2,3.")
@click.option(
    "--fraction",
    default=1.0,
    type=Range(declared.FRACTION),
    show_default=True,
    help="Of the banks, drawn anew for every round.",
)
@click.option("--quorum", type=Range(declared.QUORUM), help="Fewest banks of a round; all that were asked if left out.")
@click.option(
    "--vanish-before",
    default=0.0,
    type=Range(declared.PROBABILITY),
    show_default=True,
    help="Simulate: a bank is gone before the roster.",
)
@click.option(
    "--vanish-after",
    default=0.0,
    type=Range(declared.PROBABILITY),
    show_default=True,
    help="Simulate: a bank is gone after the roster.",
)
@click.option(
    "--retries",
    default=2,
    type=Range(declared.RETRIES),
    show_default=True,
    help="Of a round that was lost; without DP each bank consents to as many.",
)
@click.option("--reuse-updates", is_flag=True, help="In a retry, with --no-dp: send the same update, do not train.")
@click.option("--aggregation", type=click.Choice(["encrypted", "plain"]), default="encrypted", show_default=True)
@click.option("--engine", default="auto", type=Range(declared.ENGINE), show_default=True, help="Encryption engine.")
@click.option(
    "--clip", default=1.0, type=Range(declared.CLIP), show_default=True, help="Of every coordinate of an update."
)
@click.option(
    "--value-bits", type=Range(declared.VALUE_BITS), help="Of a quantised coordinate; 16 with privacy, 40 without."
)
@click.option("--bits", metavar="FROM:BITS,...", help="Bits by round, as 1:8,6:16, instead of --value-bits.")
@click.option("--layers", metavar="GROUP/...", help="Layers that travel, by turns, as hidden1/hidden2,logit.")
@click.option(
    "--limits",
    type=Range(declared.FILE),
    metavar="FILE.toml",
    help="What single banks can spare; docs/algorithms.md has an example.",
)
@click.option("--bank-memory-mb", type=Range(declared.MEMORY_MB), help="MiB of every bank that --limits does not name.")
@click.option(
    "--bank-seconds", type=Range(declared.SECONDS), help="Seconds a round of every bank that --limits does not name."
)
@click.option(
    "--bank-bytes", type=Range(declared.BYTES), help="Bytes a round of every bank that --limits does not name."
)
@click.option(
    "--seed",
    default=0,
    type=Range(declared.SEED),
    show_default=True,
    help="Of data, first model and batch order; never of keys or noise.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--threads",
    default=1,
    type=Range(declared.THREADS),
    show_default=True,
    help="Of torch; one is fastest for small models.",
)
@click.option("--no-baselines", is_flag=True, help="Leave out the comparisons, which lie outside every budget.")
@click.option(
    "--run-dir", type=FilePath(), metavar="DIR", help="Folder of this run; a new one under runs/ if left out."
)
@click.option("--resume", type=FilePath(), metavar="RUN", help="Continue the run in this folder, with its own options.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")
def train(resume: Path | None, run_dir: Path | None, as_json: bool, **options: Any) -> None:
    """Train a fraud model at several banks that show each other nothing but an encrypted sum.

    \b
    python -m demos train
    python -m demos train --no-dp --rounds 5 --json
    python -m demos train --data FILE.csv.gz --partition PARTITION.csv:REGION8 --epsilon 3
    python -m demos train --algorithm fedprox --mu 0.01
    python -m demos train --no-dp --algorithm fedadam --server-lr 0.03
    python -m demos train --no-dp --algorithm heads --head logit
    python -m demos train --no-dp --algorithm fedbuff --clients 5 --buffer 3 --durations 1,2,5
    python -m demos train --no-dp --fraction 0.75 --vanish-after 0.1 --quorum 3
    python -m demos train --no-dp --bits 1:8,6:16 --layers hidden1/hidden2,logit
    python -m demos train --no-dp --limits limits.toml --bank-bytes 100000
    python -m demos train --resume runs/NAME
    """
    if resume is not None:
        _refuse_other_options(click.get_current_context())
    from fl.runs.experiment import Experiment  # and torch with it: `--help` does not wait

    if resume is not None:
        experiment = Experiment.resume(resume)
    else:
        if options["no_dp"]:
            _refuse_beside_no_dp(click.get_current_context())
        with wrong_usage():
            config = _config(options)
        experiment = Experiment.start(config, Path(_fresh_name()) if run_dir is None else run_dir)
    _play(experiment)
    result = experiment.result()
    if as_json:
        print_json(result)
    else:
        show(result)


def _given(ctx: click.Context) -> list[str]:
    """Names of the options that a person wrote, whatever their values."""
    written = click.core.ParameterSource.COMMANDLINE
    return [name for name in ctx.params if ctx.get_parameter_source(name) is written]


def _refuse_beside_no_dp(ctx: click.Context) -> None:
    from fl.errors import BudgetError
    from fl.runs.budgets import refuse_beside_no_dp

    try:
        refuse_beside_no_dp(_given(ctx))
    except BudgetError as fault:
        raise click.UsageError(str(fault)) from None


def _refuse_other_options(ctx: click.Context) -> None:
    given = [name for name in _given(ctx) if name not in MAY_ACCOMPANY_RESUME]
    if given:
        raise click.UsageError(
            f"--resume continues with the run's own options; leave out --{given[0].replace('_', '-')}"
        )


def _fresh_name() -> str:
    import secrets
    from datetime import UTC, datetime

    return f"runs/{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _config(options: dict[str, Any]) -> RunConfig:
    """The run that these options ask for; what was left out differs with and without privacy."""
    from dataclasses import replace

    from fl.counts.settings import StatisticsSettings
    from fl.runs.config import AggregationSettings, DataSettings, PrivacySettings, RunConfig
    from fl.runs.styles import OPEN, style_of

    private = not options["no_dp"]
    asked = {
        "learning_rate": options["lr"],
        "pos_weight": options["pos_weight"],
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    passes = {"epochs": options["local_epochs"], "batch_size": options["batch_size"]}
    data = DataSettings(
        source=str(_absolute(options["data"])),
        schema=_absolute(options["schema"]),
        partition=_absolute_partition(options["partition"]),
        clients=options["clients"],
        test_windows=options["test_windows"],
        customers=options["customers"],
        fraud_share=options["fraud_share"],
    )
    privacy = PrivacySettings(
        epsilon=options["epsilon"],
        delta=options["delta"],
        sample_rate=options["sample_rate"],
        steps=options["local_steps"],
        max_grad_norm=options["max_grad_norm"],
        expected_batch=options["expected_batch"],
        budget_dir=None if options["budget_dir"] is None else str(Path(options["budget_dir"]).resolve()),
        unit=options["unit"],
        noise=options["noise"],
        update_norm=options["update_norm"],
        colluders=options["colluders"],
    )
    style = style_of(privacy if private else None)
    least = (1 if private else 3) if options["min_banks"] is None else options["min_banks"]
    statistics = StatisticsSettings(least, options["colluders"], options["increment_days"], options["statistics_share"])
    return RunConfig(
        seed=options["seed"],
        rounds=style.rounds if options["rounds"] is None else options["rounds"],
        device=options["device"],
        threads=options["threads"],
        with_baselines=not options["no_baselines"],
        data=data,
        model=style.model,
        training=replace(style.training, **asked, **passes),
        aggregation=AggregationSettings(
            options["aggregation"],
            options["clip"],
            style.value_bits if options["value_bits"] is None else options["value_bits"],
            options["engine"],
        ),
        privacy=privacy if private else None,
        baseline_model=OPEN.model,
        baseline_training=replace(OPEN.training, **passes),
        statistics=None if options["no_shared_statistics"] else statistics,
        algorithm=_algorithm(options),
        participation=_participation(options),
        compression=_compression(options),
        resources=_resources(options),
    )


def _resources(options: dict[str, Any]) -> ResourceSettings | None:
    from fl.rounds.limits import ResourceSettings

    asked = [options[name] for name in ("limits", "bank_memory_mb", "bank_seconds", "bank_bytes")]
    if all(value is None for value in asked):
        return None
    return ResourceSettings(_absolute(asked[0]), *asked[1:])


def _compression(options: dict[str, Any]) -> CompressionSettings | None:
    from fl.rounds.compression import CompressionSettings

    if options["bits"] is None and options["layers"] is None:
        return None
    if options["bits"] is not None and options["value_bits"] is not None:
        raise click.UsageError("--bits is a schedule of --value-bits: give one of them")
    return CompressionSettings(options["bits"], options["layers"])


def _algorithm(options: dict[str, Any]) -> AlgorithmSettings:
    from dataclasses import fields

    from fl.rounds.algorithms.settings import AlgorithmSettings

    given = {name: options[name] for name in {field.name for field in fields(AlgorithmSettings)} - {"name"}}
    return AlgorithmSettings(name=options["algorithm"], **given)


def _participation(options: dict[str, Any]) -> ParticipationSettings | None:
    """None where every bank is in every round."""
    from fl.rounds.algorithms.settings import ParticipationSettings

    if options["fraction"] == 1.0 and not options["vanish_before"] and not options["vanish_after"]:
        if options["quorum"] is not None or options["reuse_updates"]:
            raise click.UsageError("--quorum and --reuse-updates speak of banks that are missing: see --vanish-after")
        return None
    return ParticipationSettings(
        fraction=options["fraction"],
        quorum=3 if options["quorum"] is None else options["quorum"],
        vanish_before=options["vanish_before"],
        vanish_after=options["vanish_after"],
        retries=options["retries"],
        reuse=options["reuse_updates"],
    )


def _absolute(path: str | None) -> str | None:
    """A file's absolute path, so that --resume works from elsewhere; the name of a shipped thing stays as it is."""
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path


def _absolute_partition(spec: str | None) -> str | None:
    """FILE.csv:COLUMN with an absolute FILE; a bare COLUMN stays as it is."""
    file, colon, column = (spec or "").rpartition(":")
    return f"{_absolute(file)}:{column}" if colon else spec


def _play(experiment: Experiment) -> None:
    """All that is left of the run, with progress."""
    banks, planned = len(experiment.federation.banks), experiment.config.rounds
    numbers = range(experiment.finished + 1, planned + 1)
    if trainings := sum(len(experiment.plan.algorithm.timetable.seats(number)) for number in numbers):
        done = 0
        with progress(f"training, {planned} rounds at {banks} banks", trainings) as advance:

            def bank_done(_: str) -> None:
                nonlocal done
                if done < trainings:  # a lost round is trained again
                    done += 1
                    advance(done)

            for _ in experiment.rounds(bank_done):
                pass
    else:
        for _ in experiment.rounds():
            pass
    names = experiment.baseline_names()
    with progress("baselines", len(names)) as advance:
        for count, _ in enumerate(experiment.baselines(), start=1):
            advance(count)
