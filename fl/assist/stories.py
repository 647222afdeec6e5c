"""The commands of `demos assist`: synthetic frauds, traits of texts, review of alerts, fine-tuning.

Each function takes the data, a session and a folder, calls the other modules in order, and returns the JSON that the
command prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl import options
from fl.assist import synthetic, traits
from fl.assist.aggregates import released_aggregates
from fl.assist.approval import Candidate, open_proposal, propose
from fl.assist.comparison import Comparison, compare, trained
from fl.assist.descriptions import Described, read_described, reads_text, text_column
from fl.assist.errors import ColumnNotAllowed, CustomerListMissing, ExampleError, ScenarioError
from fl.assist.examples import ENDING, FRAUD, GENUINE, Example, ExampleFile, read_examples, write_examples
from fl.assist.likeness import RealRows
from fl.assist.openai_provider import OpenAIProvider
from fl.assist.prompts import load_prompt
from fl.assist.release import SCORE, Policy
from fl.assist.review import Alert, agreement, highest, review
from fl.assist.session import LEAST_HOLDOUT, Session, union
from fl.assist.text_head import train_text_head
from fl.assist.validation import shown_rows, validate
from fl.data.features import features
from fl.data.federation import BankData, Federation, Rows, federation_of
from fl.data.simulate import embedded
from fl.durable import replace_durably
from fl.errors import OptionError
from fl.learning.training import derive_seed, predict
from fl.rounds.play import Schedule
from fl.runs.styles import OPEN
from fl.spreadsheet import csv_bytes, read_back

REDACTED = {
    "provider": "none",
    "model": "none",
    "endpoint": "none",
    "prompt": load_prompt("describe").label,
    "note": "no model: descriptions redacted by this program, labels of the bank",
}

Progress = Callable[[str, int, int], None]  # (what, done, of)


@dataclass(frozen=True)
class DataChoice:
    """The options that choose the transactions."""

    data: Annotated[str, options.FILE] = "simulated"
    schema: Annotated[str | None, options.FILE] = None
    partition: str | None = None
    clients: Annotated[int | None, options.QUORUM] = None
    customers: Annotated[int | None, options.CUSTOMERS] = None  # of the embedded generator
    fraud_share: Annotated[float | None, options.FRAUD_SHARE] = None  # of the embedded generator
    test_windows: Annotated[int | None, options.TEST_WINDOWS] = None
    seed: Annotated[int, options.SEED] = 0

    def __post_init__(self) -> None:
        options.check(self, OptionError)

    def read(self) -> Described:
        """The banks' transactions with their descriptions."""
        simulation = None
        if self.data == "simulated":
            simulation = embedded(self.customers, self.clients, self.fraud_share, self.seed)
        return read_described(
            self.data,
            self.schema,
            self.partition,
            None if simulation else self.clients,
            self.seed,
            test_windows=self.test_windows,
            simulation=simulation,
        )


@dataclass(frozen=True)
class Effort:
    """How long a comparison trains: rounds of FedAvg without encryption, and repeats with other seeds."""

    rounds: Annotated[int, options.SOME_ROUNDS] = 5
    repeats: Annotated[int, options.REPEATS] = 3
    replicates: Annotated[int, options.REPLICATES] = 1000

    def __post_init__(self) -> None:
        options.check(self, OptionError)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.rounds, OPEN.training, None, OPEN.model.dropout, OPEN.model.prior, 0)


def make_synthetic(
    choice: DataChoice,
    session_for: Callable[[Any], Session],
    scenario: str,
    rows: int,
    folder: Path,
    *,
    with_aggregates: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Ask for synthetic transactions, check them against every bank, and write the file for the reviewers."""
    described = choice.read()
    schema = described.schema
    session = session_for(schema)
    redactor = union(session.redactors(described))
    aggregates = released_aggregates(federation_of(described.source)) if with_aggregates else None
    invented = synthetic.generate(
        session.gateway(redactor),
        schema,
        scenario,
        rows,
        aggregates,
        lambda done: progress("asking for transactions", done, rows),
    )
    frame = synthetic.to_frame(invented, described.source.periods)
    table = synthetic.transactions(frame, reads_text(schema))
    validation = validate(invented, table, _real(described), redactor, choice.seed)
    candidates = [
        Candidate(cells, "; ".join(f"{f.kind}: {f.detail}" for f in validation.of_row(i)), i in validation.blocked)
        for i, cells in enumerate(shown_rows(invented, frame))
    ]
    about = {
        "made_by": invented.made_by.as_json(),
        "scenario": scenario,
        "with_aggregates": with_aggregates,
        "data": asdict(choice),
    }
    proposal = propose(folder, "synthetic transactions", candidates, about)
    replace_durably(folder / "rows.csv", csv_bytes(frame))
    result = {**about, "folder": str(folder), "approval_file": str(proposal.csv), "validation": validation.as_json()}
    result["frauds"] = int(sum(bool(row["fraud"]) for row in invented.rows))
    return result


def compare_synthetic(folder: Path, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Train with and without the accepted rows of a proposal, on the data that it was written for."""
    proposal = open_proposal(folder, "synthetic transactions")
    approval = proposal.require_accepted()
    choice = DataChoice(**proposal.about["data"])
    described = choice.read()
    federation = federation_of(described.source)
    accepted = read_back((folder / "rows.csv").read_bytes()).iloc[list(approval.accepted)]
    extra = synthetic.training_rows(accepted, described.schema, described.source.periods)
    if len(extra) == 0:
        raise ScenarioError(
            f"{folder}: expected accepted rows within the training period, got none among {len(accepted)}: both models "
            "would be the same. Accept rows of later days, or write the set anew with synth"
        )
    with_rows = [_with_rows(bank, extra) for bank in federation.banks]
    comparison = _compare(federation, with_rows, effort, choice.seed, progress)
    return {
        "made_by": proposal.about["made_by"],
        "approval": approval.as_json(),
        "training_rows_added_per_bank": len(extra),
        "frauds_added_per_bank": int(extra.y.sum()),
        "comparison": comparison.as_json(),
    }


def describe_texts(
    choice: DataChoice,
    session_for: Callable[[Any], Session],
    column: str | None,
    effort: Effort | None,
    progress: Progress,
) -> dict[str, Any]:
    """Traits of every bank's descriptions, and the comparison of training with and without them, given `effort`."""
    described = choice.read()
    session = session_for(described.schema)
    name = text_column(described.schema, column)
    federation = federation_of(described.source)
    described_banks = []
    for number, (bank, redactor) in enumerate(
        zip(federation.banks, session.redactors(described), strict=True), start=1
    ):
        described_banks.append(traits.bank_traits(described, bank, name, session.gateway(redactor)))
        progress("describing texts, banks", number, len(federation.banks))
    missed = sum((of.unanswered for of in described_banks), start=type(described_banks[0].unanswered)())
    result: dict[str, Any] = {
        "made_by": described_banks[0].made_by.as_json(),
        "column": name,
        "texts": sum(of.texts for of in described_banks),
        "unanswered": dict(missed),
        "columns_added": list(traits.TRAIT_NAMES),
        "shares": _shares(described_banks),
    }
    if effort is not None and session.settings.dry_run is None:
        widened = traits.with_traits(federation, described_banks)
        result["comparison"] = _compare(federation, widened.banks, effort, choice.seed, progress).as_json()
    return result


def review_alerts(
    choice: DataChoice,
    session_for: Callable[[Any], Session],
    count: int,
    effort: Effort,
    progress: Progress,
) -> dict[str, Any]:
    """Train, take the `count` highest-scored test rows of the last window, and have them reviewed."""
    described = choice.read()
    session = session_for(described.schema)
    federation = federation_of(described.source)
    device = torch.device("cpu")
    model = trained(federation.banks, effort.schedule, derive_seed(choice.seed, "review"), device)
    tests = [bank.test[-1] for bank in federation.banks]
    scores = np.concatenate([predict(model, test.x, device=device) for test in tests])
    labels = np.concatenate([test.y for test in tests])
    records = _alert_records(described, tests, scores, highest(scores, count), session.policy)
    gateways = [session.gateway(redactor) for redactor in session.redactors(described)]
    alerts = review(gateways, scores, records, lambda done: progress("reviewing, banks", done, len(gateways)))
    return {
        "made_by": session.provider.made_by(load_prompt("review")).as_json(),
        "alerts": len(alerts),
        "frauds": int(sum(labels[a.position] for a in alerts)),
        "verdicts": _verdicts(alerts, labels),
        "agreement": [asdict(a) for a in agreement(alerts, labels, choice.seed)],
        "columns_shown": sorted(session.policy.allowed),
        "queue": [alert.as_json() for alert in alerts],
    }


def propose_examples(
    choice: DataChoice, session_for: Callable[[Any], Session], column: str | None, rows: int, folder: Path
) -> dict[str, Any]:
    """Redacted descriptions with labels of each bank's training rows, for reviewers; one proposal per bank.

    Half of them are frauds where a bank has that many. Texts may repeat, with one label or both: a model learns how
    often a text is a fraud.
    """
    described = choice.read()
    session = session_for(described.schema)
    name = text_column(described.schema, column)
    federation = federation_of(described.source)
    proposals = []
    for bank, redactor in zip(federation.banks, session.redactors(described), strict=True):
        texts = described.with_text.text[name][described.positions(bank.train.index)]
        chosen = _balanced(bank.train.y, rows, derive_seed(choice.seed, "examples", bank.name))
        candidates = [
            Candidate(
                {"text": redactor.redact(str(texts[i])), "label": FRAUD if bank.train.y[i] else GENUINE}, "", False
            )
            for i in chosen
        ]
        about = {"made_by": REDACTED, "column": name, "bank": bank.name, "data": asdict(choice)}
        proposals.append(propose(folder / bank.name, "examples", candidates, about))
    return {
        "made_by": REDACTED,
        "proposals": [{"folder": str(p.folder), "candidates": len(p.candidates)} for p in proposals],
    }


def build_examples(folder: Path) -> ExampleFile:
    """The accepted examples of one proposal as `examples.jsonl` in its folder."""
    proposal = open_proposal(folder, "examples")
    approval = proposal.require_accepted()
    accepted = [proposal.candidates[i].cells for i in approval.accepted]
    examples = [Example(cells["text"], cells["label"] == FRAUD) for cells in accepted]
    origin = {"bank": proposal.about["bank"], "column": proposal.about["column"], "approval": approval.as_json()}
    return write_examples(folder / "examples.jsonl", examples, origin)


def local_text_head(files: list[Path], effort: Effort, progress: Progress) -> dict[str, Any]:
    """Train a text head on one file per bank, in encrypted rounds."""
    read = [read_examples(path) for path in files]
    done = 0

    def bank_done(_: str) -> None:
        nonlocal done
        done += 1
        progress("training, banks and rounds", done, effort.rounds * len(read))

    head = train_text_head(read, effort.schedule, progress=bank_done)
    return {
        "made_by": "this program: hashed n-grams, the ordinary model, encrypted rounds; no language model",
        "files": [file.as_json() for file in read],
        **head.as_json(),
    }


def require_label_allowed(policy: Policy, column: str) -> None:
    """Require that a person has allowed the text column and the label. Raises `ColumnNotAllowed`."""
    for name in (column, policy.schema.label.column):
        if name not in policy.allowed:
            raise ColumnNotAllowed(f"examples contain {name!r}: allow it with --allow {name}. Nothing was sent")


def _real(described: Described) -> list[RealRows]:
    """Every bank's training and held-out rows; a bank with few held-out rows holds out a tenth of its training rows."""
    banks = []
    for name, rows, held in described.source.banks:
        train, holdout = rows[held.train], rows[held.validation]
        if len(holdout) < LEAST_HOLDOUT:
            lent = np.arange(len(train)) % 10 == 0
            train, holdout = train[~lent], train[lent]
        if len(holdout) == 0 or len(train) == 0:
            raise ScenarioError(f"bank {name!r} has too few training rows for a comparison with synthetic rows")
        banks.append(RealRows(name, described.with_text, train, holdout))
    return banks


def _with_rows(bank: BankData, extra: Rows) -> BankData:
    joined = Rows(
        *(np.concatenate([getattr(bank.train, n), getattr(extra, n)]) for n in ("x", "y", "day", "customer", "index"))
    )
    return BankData(bank.name, joined, bank.validation, bank.test)


def _compare(federation: Federation, changed: Any, effort: Effort, seed: int, progress: Progress) -> Comparison:
    total = 2 * effort.repeats
    return compare(
        federation.banks,
        changed,
        effort.schedule,
        repeats=effort.repeats,
        replicates=effort.replicates,
        seed=seed,
        progress=lambda done: progress("training with and without", done, total),
    )


def _shares(banks: list[traits.BankTraits]) -> dict[str, float]:
    """Mean of every trait over all rows of all banks."""
    values = np.concatenate([of.values for of in banks])
    return {name: float(mean) for name, mean in zip(traits.TRAIT_NAMES, values.mean(axis=0), strict=True)}


def _alert_records(
    described: Described,
    tests: list[Rows],
    scores: NDArray[np.float64],
    chosen: NDArray[np.int64],
    policy: Policy,
) -> dict[int, tuple[int, Mapping[str, object]]]:
    """The allowed values of each chosen row: (bank, raw values by column), by position among all test rows."""
    names = [feature.name for feature in features(described.schema)]
    starts = np.cumsum([0, *(len(test) for test in tests)])
    records: dict[int, tuple[int, Mapping[str, object]]] = {}
    for position in chosen.tolist():
        bank = int(np.searchsorted(starts, position, side="right")) - 1
        row = position - int(starts[bank])
        at = int(described.positions(tests[bank].index[row : row + 1])[0])
        values = _raw_values(described, at)
        values |= {n: float(v) for n, v in zip(names, tests[bank].x[row], strict=True) if n not in values}
        values[SCORE] = float(scores[position])
        records[position] = (bank, {name: value for name, value in values.items() if name in policy.allowed})
        if not records[position][1]:
            raise ColumnNotAllowed("no column of an alert may be sent: allow columns with --allow (docs/assist.md)")
    return records


def _raw_values(described: Described, at: int) -> dict[str, object]:
    table, schema = described.with_text, described.schema
    values: dict[str, object] = {name: str(texts[at]) for name, texts in table.text.items()}
    if schema.amount is not None and table.amount is not None:
        values[schema.amount.column] = float(table.amount[at])
    if schema.time is not None and table.time is not None:
        values[schema.time.column] = int(table.time[at])
    values |= {name: float(column[at]) for name, column in table.numeric.items()}
    values |= {name: str(party.ids[party.code[at]]) for name, party in table.categorical.items()}
    return values


def _verdicts(alerts: list[Alert], labels: NDArray[np.floating]) -> dict[str, dict[str, int]]:
    """Numbers of alerts and frauds by verdict."""
    verdicts: dict[str, dict[str, int]] = {}
    for alert in alerts:
        name = "unanswered" if alert.outcome.value is None else alert.outcome.value.verdict
        counts = verdicts.setdefault(name, {"alerts": 0, "frauds": 0})
        counts["alerts"] += 1
        counts["frauds"] += int(labels[alert.position])
    return verdicts


def _balanced(y: NDArray[np.floating], rows: int, seed: int) -> NDArray[np.int64]:
    """Positions of up to `rows` rows, half of them frauds where there are enough."""
    rng = np.random.default_rng(seed)
    frauds = rng.permutation(np.flatnonzero(y == 1))[: rows // 2]
    others = rng.permutation(np.flatnonzero(y == 0))[: rows - len(frauds)]
    return np.sort(np.concatenate([frauds, others]))


def submit_examples(
    file: Path, choice: DataChoice, session_for: Callable[[Any], Session], epochs: int, today: date
) -> dict[str, Any]:
    """Upload a checked file of examples and start a job.

    A line that the redactor of its bank does not release is refused. Raises `ExampleError`, and what
    `OpenAIProvider.fine_tune` raises.
    """
    described = choice.read()
    session = session_for(described.schema)
    redactors = dict(zip((bank for bank, _, _ in described.source.banks), session.redactors(described), strict=True))
    require_label_allowed(session.policy, text_column(described.schema))
    if session.settings.customer_list is None:
        raise CustomerListMissing("give --customer-list FILE or --no-customer-list. Nothing was sent")
    bank = read_examples(file).bank
    if bank not in redactors:
        raise ExampleError(f"{file}: expected a bank of --data, one of {', '.join(redactors)}, got {bank!r}")
    redactor = redactors[bank]
    examples = read_examples(file, redactor)
    provider = session.provider
    assert isinstance(provider, OpenAIProvider), "only openai takes fine-tuning jobs; the command line says so first"
    job = provider.fine_tune(file, epochs=epochs, guard=redactor.identifiers_in, today=today)
    return {"job": job, "model": provider.model, "endpoint": provider.endpoint, "note": ENDING, **examples.as_json()}
