"""What the assistance is worth: the comparison and its interval, traits as inputs, queues, examples, text heads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from sklearn.metrics import average_precision_score

from fl.assist import review as reviewing
from fl.assist import traits
from fl.assist.account import Account, SpendingLimits, read_log
from fl.assist.answers import CATEGORIES
from fl.assist.comparison import average_precision, compare
from fl.assist.descriptions import Described, text_column
from fl.assist.errors import ExampleError, FineTuningClosed, LeakRefused, NotSent, ScenarioError, SpendLimitReached
from fl.assist.examples import Example, read_examples, write_examples
from fl.assist.gateway import Gateway
from fl.assist.offline import OfflineProvider
from fl.assist.openai_provider import OpenAIProvider
from fl.assist.provider import MadeBy
from fl.assist.redact import Redactor
from fl.assist.release import Policy
from fl.assist.session import Session, Settings
from fl.assist.text_head import hashed_texts, train_text_head
from fl.data.federation import BankData, Federation, Rows, federation_of
from fl.data.schema import Schema
from fl.data.schema_file import load_schema
from fl.errors import AggregationError, MetricError
from fl.rounds.play import Schedule
from fl.runs.styles import OPEN

SCHEDULE = Schedule(3, OPEN.training, None, 0.0, 0.03, 0)


@pytest.fixture(scope="module")
def federation(described: Described) -> Federation:
    return federation_of(described.source)


# --- comparison -----------------------------------------------------------------------------------------------------

weights = st.lists(st.integers(0, 3), min_size=2, max_size=40)


@given(weights, st.integers(0, 2**32 - 1))
def test_weighted_average_precision_is_sklearns(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, len(counts)).astype(np.float32)
    scores = rng.integers(0, 5, len(counts)) / 4  # with ties
    drawn = np.array(counts)
    if y[drawn > 0].sum() == 0:
        assert np.isnan(average_precision(y, scores, drawn))
        return
    expected = average_precision_score(y, scores, sample_weight=drawn)
    assert average_precision(y, scores, drawn) == pytest.approx(expected)
    repeated = np.repeat(np.arange(len(counts)), drawn)
    assert average_precision(y[repeated], scores[repeated]) == pytest.approx(expected)


def test_comparing_a_federation_with_itself_shows_no_difference(federation: Federation) -> None:
    found = compare(federation.banks, federation.banks, SCHEDULE, repeats=1, replicates=100)
    assert found.difference == found.low == found.high == 0.0
    assert found.verdict == "no difference shown"


def test_a_column_that_knows_the_label_is_shown_to_be_better(federation: Federation) -> None:
    def told(rows: Rows) -> Rows:
        return replace(rows, x=np.concatenate([rows.x, 3 * rows.y[:, None]], axis=1).astype(np.float32))

    banks = [
        BankData(b.name, told(b.train), told(b.validation), tuple(told(t) for t in b.test)) for b in federation.banks
    ]
    found = compare(federation.banks, banks, SCHEDULE, repeats=2, replicates=200)
    assert found.changed > 0.95 > found.unchanged
    assert found.low > 0 and found.low <= found.difference <= found.high and found.verdict == "better"


def test_other_test_rows_are_refused(federation: Federation) -> None:
    first, *rest = federation.banks
    fewer = replace(first.test[0], **{n: getattr(first.test[0], n)[1:] for n in ("x", "y", "day", "customer", "index")})
    with pytest.raises(MetricError, match="same test rows"):
        compare(federation.banks, [replace(first, test=(fewer,)), *rest], SCHEDULE)


# --- traits ---------------------------------------------------------------------------------------------------------


def test_traits_join_the_inputs_row_by_row(described: Described, federation: Federation) -> None:
    session = Session(Settings(Path("unused")), described.schema)
    found = [
        traits.bank_traits(described, bank, "DESCRIPTION", session.gateway(redactor))
        for bank, redactor in zip(federation.banks, session.redactors(described), strict=True)
    ]
    widened = traits.with_traits(federation, found)
    width = len(federation.feature_names)
    assert widened.feature_names[width:] == traits.TRAIT_NAMES
    for before, after in zip(federation.banks, widened.banks, strict=True):
        assert np.array_equal(before.train.x, after.train.x[:, :width])
        assert after.test[0].x.shape[1] == width + len(traits.TRAIT_NAMES)
    rows = widened.banks[0].train
    texts = described.with_text.text["DESCRIPTION"][described.positions(rows.index)]
    fuel = rows.x[:, width + CATEGORIES.index("fuel")] == 1
    assert fuel.any() and all("diesel" in t or "unleaded" in t or "car wash" in t or "Gas" in t for t in texts[fuel])


def test_an_unanswered_description_gets_a_column_that_says_so_and_no_guess(
    described: Described, federation: Federation, gateway_to: Callable[..., Gateway], httpserver: HTTPServer
) -> None:
    class Silent(OfflineProvider):
        def complete(self, request: Any) -> Any:
            from fl.assist.errors import AnswerRefused

            raise AnswerRefused("no")

        def made_by(self, prompt: Any) -> MadeBy:
            return super().made_by(prompt)

    few = replace(federation.banks[0], test=())
    redactor = Session(Settings(Path("unused")), described.schema).redactors(described)[0]
    gateway = Gateway(Silent(), Policy.nothing_leaves(described.schema), redactor, None)
    found = traits.bank_traits(described, few, "DESCRIPTION", gateway)
    assert found.unanswered["AnswerRefused"] == found.texts
    assert (found.values[:, -1] == 1).all() and (found.values[:, :-1] == 0).all()


def test_a_schema_without_text_says_what_to_do() -> None:
    with pytest.raises(ScenarioError, match=r"\[\[text\]\]"):
        text_column(load_schema("fdh"))
    assert text_column(load_schema("simulated")) == "DESCRIPTION"


# --- review ---------------------------------------------------------------------------------------------------------


def _reviewer(verdicts: dict[str, tuple[str, float]]) -> OfflineProvider:
    """Answers by the redacted description."""

    class Reviewer(OfflineProvider):
        def complete(self, request: Any) -> Any:
            items = json.loads(request.content)["items"]
            answers = [
                {
                    "item": item["item"],
                    "verdict": verdicts[item["DESCRIPTION"]][0],
                    "confidence": verdicts[item["DESCRIPTION"]][1],
                    "reasons": ["too_little_information"],
                    "comment": "",
                }
                for item in items
            ]
            return request.answer.model_validate_json(json.dumps({"answers": answers}))

    return Reviewer()


def test_verdicts_order_the_queue_and_change_no_score(schema: Schema, redactor: Redactor) -> None:
    verdicts = {
        "rent": ("likely_genuine", 0.9),
        "diesel": ("likely_fraud", 0.6),
        "groceries": ("likely_fraud", 0.8),
        "lunch": ("unclear", 0.5),
        "shop": ("likely_genuine", 0.2),
    }
    scores = np.array([0.99, 0.5, 0.4, 0.9, 0.1])
    gateway = Gateway(_reviewer(verdicts), Policy.nothing_leaves(schema), redactor, None)
    rows = {i: (0, {"DESCRIPTION": text}) for i, text in enumerate(verdicts)}
    alerts = reviewing.review([gateway], scores, rows)
    assert [alert.position for alert in alerts] == [2, 1, 3, 4, 0]
    assert [alert.score for alert in alerts] == [scores[alert.position] for alert in alerts]
    assert [alert.queue for alert in alerts] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("right", "sign"), [(True, 1), (False, -1)])
def test_agreement_is_measured_with_and_without_the_verdicts(
    schema: Schema, redactor: Redactor, right: bool, sign: int
) -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 60).astype(np.float64), rng.random(60)
    words = [f"{a} {b}" for a in ("rent", "lunch", "diesel", "shop", "thanks", "parcel", "fee", "the") for b in
             ("rent", "lunch", "diesel", "shop", "thanks", "parcel", "fee", "the")]  # fmt: skip
    fraud, genuine = ("likely_fraud", "likely_genuine") if right else ("likely_genuine", "likely_fraud")
    verdicts = {words[i]: (fraud if labels[i] else genuine, 0.9) for i in range(60)}
    gateway = Gateway(_reviewer(verdicts), Policy.nothing_leaves(schema), redactor, None)
    alerts = reviewing.review([gateway], scores, {i: (0, {"DESCRIPTION": words[i]}) for i in range(60)})
    found = reviewing.agreement(alerts, labels)
    assert [a.depth for a in found] == [10, 25, 50]
    assert found[0].by_queue == (1.0 if right else 0.0)
    assert found[0].by_score == labels[np.argsort(-scores)[:10]].mean()
    assert sign * found[0].low > 0 and sign * found[0].high > 0


# --- examples -------------------------------------------------------------------------------------------------------

TEXTS = ("rent [NUMBER]", "lunch", "diesel", "thanks for the lunch", "weekly shop")


def examples(count: int = 40) -> list[Example]:
    return [Example(TEXTS[i % 5] if i % 4 else "urgent release of parcel [NUMBER]", i % 4 == 0) for i in range(count)]


def test_examples_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    made = write_examples(tmp_path / "e.jsonl", examples(), {"bank": "b"})
    again = read_examples(tmp_path / "e.jsonl")
    assert again == made and list(again.examples) == examples() and again.frauds == 10
    assert again.as_json()["tokens_at_most"] == (tmp_path / "e.jsonl").stat().st_size
    line = json.loads((tmp_path / "e.jsonl").read_text().splitlines()[0])
    assert [message["role"] for message in line["messages"]] == ["system", "user", "assistant"]
    assert line["messages"][2]["content"] == "fraud"


def _resealed(path: Path, lines: Sequence[str]) -> None:
    """Replace the file and its hash, as someone who knows the format would."""
    import hashlib

    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(content)
    origin = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**origin, "sha256": hashlib.sha256(content).hexdigest()}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 41: expected a JSON object"),
        ('{"messages": []}', "line 41: expected texts of"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "line 41: expected texts of"),
        (Example("rent 4711", True).line(), "line 41 is not redacted: it holds a digit"),
        (Example("a@b", True).line(), "line 41 is not redacted"),
        (Example("rent", True).line().replace('"fraud"}', '"maybe"}'), "line 41: expected the answer"),
    ],
)
def test_a_malformed_example_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "e.jsonl"
    write_examples(path, examples(), {"bank": "b"})
    _resealed(path, [*path.read_text().splitlines(), line])
    with pytest.raises(ExampleError, match=message):
        read_examples(path)


def test_a_file_that_was_changed_afterwards_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    write_examples(path, examples(), {"bank": "b"})
    path.write_text(path.read_text().replace("lunch", "brunch"))
    with pytest.raises(ExampleError, match="build it again"):
        read_examples(path)


@pytest.mark.parametrize("few", [examples(8), [e for e in examples() if e.fraud]])
def test_too_few_examples_or_one_class_are_refused(tmp_path: Path, few: list[Example]) -> None:
    with pytest.raises(ExampleError, match="of both kinds"):
        write_examples(tmp_path / "e.jsonl", few, {"bank": "b"})


def test_a_text_head_learns_from_the_same_files_in_encrypted_rounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = []
    for bank in range(3):
        heads = [" ".join(rng.choice(["rent", "lunch", "diesel", "shop"], 3)) for _ in range(200)]
        frauds = rng.random(200) < 0.3
        made = [Example(f"{h} {'urgent' if f else 'thanks'}", bool(f)) for h, f in zip(heads, frauds, strict=True)]
        files.append(write_examples(tmp_path / f"{bank}.jsonl", made, {"bank": str(bank)}))
    head = train_text_head(files, Schedule(10, OPEN.training, None, 0.0, 0.3, 0))
    assert head.figures.mean["average_precision"] > 0.95 > head.base_rate
    assert 0 < head.max_abs_error < 1e-4 and head.bytes_up > 0, "the averages were encrypted"
    with pytest.raises(AggregationError):
        train_text_head(files[:2], SCHEDULE)


def test_hashed_texts_need_no_vocabulary() -> None:
    assert np.array_equal(hashed_texts(["urgent", "rent"])[1], hashed_texts(["rent"])[0])


# --- fine-tuning jobs -----------------------------------------------------------------------------------------------


@pytest.fixture
def tuner(httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., OpenAIProvider]:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("OPENAI_BASE_URL", httpserver.url_for("/v1"))
    job = {
        "id": "job-1", "object": "fine_tuning.job", "status": "queued", "model": "m", "created_at": 0,
        "fine_tuned_model": None, "trained_tokens": None, "training_file": "file-1", "hyperparameters": {},
        "organization_id": "", "result_files": [], "seed": 0,
    }  # fmt: skip
    file = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 0, "filename": "f", "purpose": "fine-tune"}
    httpserver.expect_request("/v1/files", method="POST").respond_with_json({**file, "status": "processed"})
    httpserver.expect_request("/v1/fine_tuning/jobs", method="POST").respond_with_json(job)
    httpserver.expect_request("/v1/fine_tuning/jobs/job-1").respond_with_json(
        {**job, "status": "succeeded", "fine_tuned_model": "tuned", "trained_tokens": 9}
    )

    def make(tokens: int = 10**6, **options: Any) -> OpenAIProvider:
        return OpenAIProvider("m", Account(tmp_path / "log", SpendingLimits(tokens)), **options)

    return make


TODAY = date(2026, 11, 22)


def test_a_job_is_started_and_asked_after(
    tuner: Callable[..., OpenAIProvider], tmp_path: Path, httpserver: HTTPServer
) -> None:
    made = write_examples(tmp_path / "e.jsonl", examples(), {"bank": "b"})
    provider = tuner()
    assert provider.fine_tune(made.path, epochs=3, guard=lambda _: [], today=TODAY) == "job-1"
    sent = [line for line in read_log(tmp_path / "log") if line["event"] == "sent"]
    assert sent[1]["bound_output_tokens"] == 3 * made.bytes, "the job counts at its bound"
    body = json.loads(httpserver.log[1][0].get_data())
    assert body["training_file"] == "file-1" and body["model"] == "m"
    assert provider.fine_tuning_status("job-1")["fine_tuned_model"] == "tuned"


def test_a_job_beyond_the_budget_uploads_nothing(
    tuner: Callable[..., OpenAIProvider], tmp_path: Path, httpserver: HTTPServer
) -> None:
    made = write_examples(tmp_path / "e.jsonl", examples(), {"bank": "b"})
    with pytest.raises(SpendLimitReached):
        tuner(tokens=3 * made.bytes).fine_tune(made.path, epochs=3, guard=lambda _: [], today=TODAY)
    assert httpserver.log == []


def test_an_upload_passes_the_guard_and_a_dry_run_shows_it(
    tuner: Callable[..., OpenAIProvider], tmp_path: Path, httpserver: HTTPServer
) -> None:
    made = write_examples(tmp_path / "e.jsonl", examples(), {"bank": "b"})
    guard = Redactor(frozenset(), frozenset({"release of"}), frozenset(), frozenset()).identifiers_in
    with pytest.raises(LeakRefused):
        tuner().fine_tune(made.path, epochs=1, guard=guard, today=TODAY)
    shown: list[bytes] = []
    with pytest.raises(NotSent):
        tuner(dry_run=shown.append).fine_tune(made.path, epochs=1, guard=lambda _: [], today=TODAY)
    assert made.path.read_bytes() in shown[0] and httpserver.log == []


def test_openai_takes_no_new_jobs_after_the_announced_day(tuner: Callable[..., OpenAIProvider], tmp_path: Path) -> None:
    made = write_examples(tmp_path / "e.jsonl", examples(), {"bank": "b"})
    provider = tuner(base_url="https://api.openai.com/v1", dry_run=lambda _: None)
    with pytest.raises(FineTuningClosed, match="locally"):
        provider.fine_tune(made.path, epochs=1, guard=lambda _: [], today=date(2027, 1, 6))
    with pytest.raises(NotSent):
        provider.fine_tune(made.path, epochs=1, guard=lambda _: [], today=date(2027, 1, 5))
