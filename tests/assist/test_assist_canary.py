"""Canaries: a thousand descriptions with planted identifiers go through the whole path; the server must not see one.

What the server recorded is searched in every form that a reader could put back together: without case, accents,
separators and invisible characters.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_httpserver import HTTPServer

from fl.assist import review as reviewing
from fl.assist import traits
from fl.assist.account import Account, SpendingLimits
from fl.assist.cache import Cache
from fl.assist.gateway import Gateway
from fl.assist.openai_provider import OpenAIProvider
from fl.assist.redact import Redactor
from fl.assist.release import Policy
from fl.data.schema import Schema
from tests.assist.model_server import ModelServer, traits_of
from tests.assist.test_assist_redact import iban, luhn

ROWS = 1000
SYLLABLES = ("bre", "dun", "eil", "fos", "gri", "hal", "jor", "kas", "lum", "mir", "nok", "quin", "ras", "sve", "vek")
SENTENCES = (
    "rent for {}",
    "invoice {} thanks",
    "{} weekly shop",
    "groceries ({})",
    "customs fee today: {}",
    "urgent release of parcel {}",
    "lunch,{},diesel",
)


def planted(seed: int) -> tuple[list[str], list[str], list[str], list[str]]:
    """(descriptions, canaries, the bank's customer list, its customer identifiers); half of the names are on the
    list, the others belong to people the bank has never heard of.
    """
    rng = random.Random(seed)
    names = [f"{_name(rng)} {_name(rng)}" for _ in range(ROWS // 4)]
    listed = names[::2]
    ids = [f"C{number:05d}" for number in range(ROWS)]
    texts, canaries = [], []
    for row in range(ROWS):
        kind = row % 4
        if kind == 0:
            canary = luhn("".join(rng.choices("0123456789", k=15)))
        elif kind == 1:
            canary = iban("DE", "".join(rng.choices("0123456789", k=18)))
        elif kind == 2:
            canary = names[row // 4]
        else:
            canary = ids[row]
        canaries.append(canary)
        texts.append(rng.choice(SENTENCES).format(_disguised(canary, rng)))
    return texts, canaries, listed, ids


def _name(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=3)).capitalize()


def _disguised(canary: str, rng: random.Random) -> str:
    """The canary as people, machines or attackers print it."""
    ways: list[Callable[[str], str]] = [
        str,
        str.upper,
        str.lower,
        lambda s: "\u200b".join(s),
        lambda s: unicodedata.normalize("NFD", s),
        lambda s: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in s),  # full-width
    ]
    if canary[-1].isdigit() and len(canary) > 10:
        ways += [lambda s: " ".join(s[i : i + 4] for i in range(0, len(s), 4)), lambda s: "-".join(s)]
    if " " in canary:
        ways += [lambda s: ", ".join(reversed(s.split())), lambda s: s.replace(" ", "."), lambda s: f"Mr. {s}"]
    return rng.choice(ways)(canary)


def squeezed(text: str) -> str:
    """Letters and digits alone, without case and accents."""
    apart = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in apart if c.isalnum())


def found_in(recorded: bytes, canaries: list[str]) -> list[str]:
    """Canaries, or words of planted names, in a body; escapes resolved."""
    text = json.dumps(json.loads(recorded), ensure_ascii=False)
    body, tokens = squeezed(text), set(re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKD", text).casefold()))
    found = [canary for canary in canaries if squeezed(canary) in body]
    return found + [w for canary in canaries if " " in canary for w in canary.casefold().split() if w in tokens]


@pytest.fixture
def bank() -> tuple[list[str], list[str], Redactor]:
    texts, canaries, listed, ids = planted(7)
    ordinary = [sentence.format("") for sentence in SENTENCES] * 20
    customers = np.concatenate([np.arange(ROWS), np.arange(len(ordinary)) % 20])
    redactor = Redactor.of_bank([*texts, *ordinary], customers, names=listed, identifiers=ids, min_customers=30)
    return texts, canaries, redactor


def _gateway(
    server: ModelServer, schema: Schema, redactor: Redactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: str
) -> Gateway:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    provider = OpenAIProvider("m", Account(tmp_path / "log", SpendingLimits(10**9)), api=api)  # type: ignore[arg-type]
    policy = Policy.of(schema, ["DESCRIPTION", "AMOUNT", "TIME", "score"])
    return Gateway(provider, policy, redactor, Cache(tmp_path / "cache"))


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_no_recorded_body_holds_a_planted_identifier(
    httpserver: HTTPServer,
    schema: Schema,
    bank: tuple[list[str], list[str], Redactor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    api: str,
) -> None:
    texts, canaries, redactor = bank
    server = ModelServer(httpserver, traits_of)
    gateway = _gateway(server, schema, redactor, tmp_path, monkeypatch, api)
    outcomes = gateway.ask_each(traits.task(), [{"DESCRIPTION": text} for text in texts])
    assert len(outcomes) == ROWS and all(outcome.value for outcome in outcomes)
    assert server.bodies, "something was asked"
    assert [found for body in server.bodies for found in found_in(body, canaries)] == []
    kept = {item["DESCRIPTION"] for body in server.requests for item in _items(body)}
    assert any("rent" in text for text in kept) and any("[CARD]" in text for text in kept), "the rest is left to read"
    assert any("[IBAN]" in text for text in kept) and any("[NAME]" in text for text in kept)
    lasting = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(canary.encode() in lasting for canary in canaries), "log and cache hold none either"


def test_reviews_leak_no_planted_identifier_either(
    httpserver: HTTPServer,
    schema: Schema,
    bank: tuple[list[str], list[str], Redactor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts, canaries, redactor = bank

    def answer(content: dict[str, object]) -> object:
        plain = {"verdict": "unclear", "confidence": 0.5, "reasons": ["too_little_information"], "comment": ""}
        return {"answers": [{"item": item["item"], **plain} for item in content["items"]]}  # type: ignore[attr-defined]

    server = ModelServer(httpserver, answer)
    gateway = _gateway(server, schema, redactor, tmp_path, monkeypatch, "responses")
    scores = np.linspace(0, 1, ROWS)
    rows = {i: (0, {"DESCRIPTION": t, "AMOUNT": 12.34 + i, "TIME": i, "score": scores[i]}) for i, t in enumerate(texts)}
    reviewing.review([gateway], scores, rows)
    assert server.bodies and [found for body in server.bodies for found in found_in(body, canaries)] == []


def test_the_search_finds_every_canary_in_text_that_was_not_redacted() -> None:
    texts, canaries, _, _ = planted(7)
    for text, canary in zip(texts, canaries, strict=True):
        assert found_in(json.dumps({"input": text}).encode(), [canary]), text


def _items(body: dict[str, object]) -> list[dict[str, str]]:
    content = body["input"] if "input" in body else body["messages"][1]["content"]  # type: ignore[index]
    items: list[dict[str, str]] = json.loads(str(content))["items"]
    return items
