"""The default: rules, no key, no network, no SDK; and only the gateway could ever send anything."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl.assist import review, synthetic, traits
from fl.assist.gateway import Gateway
from fl.assist.offline import OfflineProvider
from fl.assist.redact import Redactor
from fl.assist.release import Policy
from fl.assist.session import Session, Settings
from fl.data.schema import Schema
from fl.data.schema_file import SHIPPED, load_schema

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "fl" / "assist").rglob("*.py"))
NETWORK = {"openai", "httpx2", "httpx", "requests", "aiohttp", "urllib3", "socket", "http", "ssl", "websockets"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("something opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("OPENAI_API_KEY", "a key that must change nothing")


def offline(schema: Schema, redactor: Redactor, seed: int = 0) -> Gateway:
    return Gateway(OfflineProvider(seed), Policy.nothing_leaves(schema), redactor, None)


def test_a_key_in_the_environment_changes_nothing(schema: Schema, tmp_path: Path) -> None:
    session = Session(Settings(tmp_path), schema)
    assert isinstance(session.provider, OfflineProvider)
    assert list(tmp_path.iterdir()) == []


def test_the_same_question_has_the_same_answer_and_another_seed_another(schema: Schema, redactor: Redactor) -> None:
    made = [synthetic.generate(offline(schema, redactor, s), schema, "a stolen card", 60).rows for s in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_whatever_the_rules_make_says_that_it_is_no_language_model(schema: Schema, redactor: Redactor) -> None:
    outcome = offline(schema, redactor).ask_each(traits.task(), [{"DESCRIPTION": "rent"}])[0]
    made = synthetic.generate(offline(schema, redactor), schema, "a stolen card", 2).made_by
    for made_by in (outcome.made_by, made):
        assert made_by.provider == "offline" and "no language model" in made_by.as_json()["note"]


def test_the_rules_label_plain_descriptions(schema: Schema, redactor: Redactor) -> None:
    texts = ("rent", "urgent release of parcel 12", "weekly shop", "thanks for the lunch")
    outcomes = offline(schema, redactor).ask_each(traits.task(), [{"DESCRIPTION": t} for t in texts])
    values = [outcome.value for outcome in outcomes]
    assert [v.category for v in values if v] == ["housing", "other", "groceries", "transfer"]
    assert [v.urgency for v in values if v] == ["none", "high", "none", "none"]


def test_the_rules_doubt_a_risky_terminal_more_than_an_ordinary_purchase(schema: Schema, redactor: Redactor) -> None:
    rows = {
        0: (0, {"score": 0.9, "terminal_risk_1d": 3.0, "terminal_risk_7d": 3.0, "amount": 3.0}),
        1: (0, {"score": 0.95, "terminal_risk_1d": -3.0}),
    }
    alerts = review.review([offline(schema, redactor)], np.array([0.9, 0.95]), rows)
    assert [alert.position for alert in alerts] == [0, 1]
    assert alerts[0].score == 0.9, "a verdict changes no score"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_rules_make_rows_of_every_shipped_schema(name: str, redactor: Redactor) -> None:
    schema = load_schema(name)
    made = synthetic.generate(offline(schema, redactor), schema, "small test charges", 45)
    assert len(made) == 45 and 0 < sum(bool(row["fraud"]) for row in made.rows) < 45
    assert set(synthetic.value_columns(schema)) <= set(made.rows[0])


@pytest.mark.parametrize("scenario", ["small test charges", "a skimmed terminal", "one large order", "takeover"])
def test_every_scenario_of_the_rules_holds_frauds_of_its_kind(
    schema: Schema, redactor: Redactor, scenario: str
) -> None:
    rows = synthetic.generate(offline(schema, redactor), schema, scenario, 120).rows
    frauds = [row for row in rows if row["fraud"]]
    if scenario == "a skimmed terminal":
        assert {row["place"] for row in frauds} == {1}
    elif scenario != "small test charges":
        typical = np.median([row["AMOUNT"] for row in rows if not row["fraud"]])
        assert np.median([row["AMOUNT"] for row in frauds]) > 2 * typical
    else:
        assert min(row["AMOUNT"] for row in frauds) < 5 and all(row["minute"] < 400 for row in frauds)


# --- who may send ---------------------------------------------------------------------------------------------------


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def _calls(path: Path, name: str) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(n, ast.Call) and ast.unparse(n.func).split(".")[-1] == name for n in ast.walk(tree))


def test_only_one_provider_imports_what_could_send() -> None:
    assert {path.name for path in SOURCES if _imports(path) & NETWORK} == {"openai_provider.py"}
    elsewhere = [p for p in [*(ROOT / "fl").rglob("*.py"), *(ROOT / "demos").rglob("*.py")] if p not in SOURCES]
    assert [path.name for path in elsewhere if _imports(path) & {"openai", "httpx2"}] == []


def test_only_the_gateway_builds_requests() -> None:
    assert {path.name for path in SOURCES if _calls(path, "Request")} == {"gateway.py"}


def test_no_model_is_named_in_any_source() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8").lower()
        assert not any(name in text for name in ("gpt-", "o1-", "o3-", "o4-", "davinci", "llama-")), path.name


def test_nothing_loads_the_sdk_until_it_is_asked_for_and_without_it_the_error_says_what_to_install(
    tmp_path: Path,
) -> None:
    names = ["demos.assist", *(f"fl.assist.{path.stem}" for path in SOURCES if path.stem != "__init__")]
    program = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
print("openai" in sys.modules, "httpx2" in sys.modules)
sys.modules["openai"] = None
from pathlib import Path
from fl.assist.account import Account, SpendingLimits
from fl.assist.errors import AssistNotInstalled
try:
    sys.modules["fl.assist.openai_provider"].OpenAIProvider("m", Account(Path(sys.argv[1]) / "log", SpendingLimits(1)))
except AssistNotInstalled as error:
    print(error)
"""
    environment = {**os.environ, "OPENAI_API_KEY": "k"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False False") and "pip install -e '.[assist]'" in done.stdout
