"""Answer requests by plain rules: the default provider, seeded, without a network, the same on every machine.

With it, redaction, caching, approval and comparison can be run, tested and shown without a language model. The rules
use a few words of English and German statements and nothing else. Every output names the rules as its origin, since
their figures say nothing about a language model.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
from pydantic import BaseModel

from fl.assist.cache import content_key
from fl.assist.errors import RequestRejected
from fl.assist.prompts import Prompt
from fl.assist.provider import MadeBy, Request

MODEL = "offline-rules-1"

_CATEGORY_WORDS = {
    "transfer": ("invoice", "thanks", "shared", "installment", "school", "transfer", "rechnung"),
    "housing": ("rent", "miete", "deposit"),
    "membership": ("membership", "pass", "subscription", "contract"),
    "refund": ("refund", "chargeback"),
    "fee": ("fee", "customs", "verification", "charge", "tax"),
    "digital": ("streambox", "cloudnote", "voucher", "digital", "crypto", "gift", "codes", "webshop", "top"),
    "groceries": ("groceries", "shop", "fruit", "bread", "grocer", "market", "supermarket"),
    "fuel": ("diesel", "unleaded", "fuel", "gas", "car"),
    "dining": ("lunch", "dinner", "takeaway", "bistrot", "coffee", "restaurant"),
    "electronics": ("headphones", "laptop", "phone", "parts", "gadget"),
    "travel": ("ticket", "seat", "rail", "airline", "hotel"),
    "health": ("prescription", "payment", "pharmacy", "dental", "check"),
    "home": ("paint", "tools", "chairs", "delivery", "hardware"),
}
_URGENT = ("urgent", "immediately", "today", "now", "final", "release", "verification", "sofort", "dringend")
_DEADLINE = ("due", "reminder", "support", "until", "codes")
_NEGATIVE = ("urgent", "final", "overdue", "warning", "blocked", "suspended")
_POSITIVE = ("thanks", "gift", "birthday", "congratulations")
_PHRASES = {
    False: ("weekly shop", "lunch", "monthly pass", "fuel", "pharmacy", "cinema tickets", "bakery", "garden tools"),
    True: ("parcel release today", "account verification", "customs fee", "voucher codes", "top-up now", "order"),
}


class OfflineProvider:
    """Answers by rules. `seed` affects synthetic transactions only."""

    leaves_machine = False

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def made_by(self, prompt: Prompt) -> MadeBy:
        return MadeBy("offline", MODEL, "none", prompt.label)

    def complete(self, request: Request) -> BaseModel:
        """An instance of `request.answer`, by the rules for this prompt."""
        facts = json.loads(request.content)
        if request.prompt.name == "traits":
            content: Any = {"answers": [_traits(item) for item in facts["items"]]}
        elif request.prompt.name == "review":
            content = {"answers": [_review(item) for item in facts["items"]]}
        elif request.prompt.name == "synthetic":
            key = content_key(str(self._seed), request.content)
            content = {"transactions": _Episodes(facts, np.random.default_rng(int(key[:16], 16))).rows()}
        else:
            raise RequestRejected(f"there are no rules for the prompt {request.prompt.name!r}: use --provider openai")
        return request.answer.model_validate_json(json.dumps(content))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", re.sub(r"\[\w+\]", " ", text.lower()))


def _text_of(item: dict[str, Any]) -> str:
    return " ".join(str(value) for name, value in item.items() if name != "item")


def _traits(item: dict[str, Any]) -> dict[str, Any]:
    text = _text_of(item)
    said = set(_words(text))
    category = next((name for name, known in _CATEGORY_WORDS.items() if said & set(known)), "other")
    urgency = "high" if said & set(_URGENT) else "some" if said & set(_DEADLINE) else "none"
    sentiment = "negative" if said & set(_NEGATIVE) else "positive" if said & set(_POSITIVE) else "neutral"
    entities = [{"kind": "party", "text": name} for name in dict.fromkeys(re.findall(r"\[NAME\]", text))]
    shop = re.match(r"((?:[A-Z][\w&'-]*\s?)+),", text)  # "Corner Grocer Dunmore, groceries"
    if shop is not None:
        entities.append({"kind": "party", "text": shop[1].strip()})
    return {
        "item": item["item"],
        "category": category,
        "sentiment": sentiment,
        "urgency": urgency,
        "entities": entities,
    }


_WEIGHTS = {"very low": -0.5, "low": -0.25, "usual": 0.0, "high": 0.5, "very high": 1.0}


def _review(item: dict[str, Any]) -> dict[str, Any]:
    """A weighted count of warning signs. The model's score is not one of them."""
    suspicion, reasons = 0.0, []
    for name, value in item.items():
        weight = _WEIGHTS.get(str(value))
        if weight is None or weight <= 0:
            continue
        suspicion += weight
        reasons.append(_reason(name))
    if set(_words(_text_of(item))) & set(_URGENT):
        suspicion, reasons = suspicion + 1.0, ["urgent_wording", *reasons]
    if "night" in _text_of(item):
        suspicion, reasons = suspicion + 0.25, [*reasons, "unusual_time"]
    verdict = "likely_fraud" if suspicion >= 3.0 else "likely_genuine" if suspicion < 1.0 else "unclear"
    return {
        "item": item["item"],
        "verdict": verdict,
        "confidence": round(1.0 - 0.5 * math.exp(-abs(suspicion - 2.0) / 3.0), 2),
        "reasons": list(dict.fromkeys(reasons))[:4] or ["ordinary_purchase"],
        "comment": f"rules: {len(reasons)} warning signs",
    }


def _reason(feature: str) -> str:
    if "terminal" in feature:
        return "risky_terminal"
    return "unusual_amount" if "amount" in feature else "unusual_frequency"


class _Episodes:
    """A few customers with ordinary transactions, some of them with a fraud of the scenario's kind."""

    def __init__(self, facts: dict[str, Any], rng: np.random.Generator) -> None:
        self._facts = facts
        self._rng = rng
        self._kind = _kind(str(facts["scenario"]))
        columns = facts["schema"]["columns"]
        amount = next((c for c in columns if c["kind"] == "amount"), None)
        released = (facts.get("aggregates") or {}).get("typical_amount")
        typical = (amount or {}).get("typical", 50.0) if released is None else released
        self._typical = max(float(typical), 1.0)
        self._most = float((amount or {}).get("most", math.inf))

    def rows(self) -> list[dict[str, Any]]:
        wanted, days = int(self._facts["rows"]), int(self._facts["days"])
        rows: list[dict[str, Any]] = []
        for actor in range(99):
            if len(rows) >= wanted:
                break
            typical = self._typical * float(self._rng.uniform(0.4, 1.6))
            past = int(self._rng.integers(6, 12))
            for _ in range(past):
                day = int(self._rng.integers(0, days))
                rows.append(self._row(actor, int(self._rng.integers(2, 20)), day, self._daytime(), typical, False))
            last = days - 1 - int(self._rng.integers(0, min(7, days)))
            rows += self._fraud(actor, last, typical)
        rows = sorted(rows[:wanted], key=lambda row: (row["day"], row["minute"]))
        if not any(row["fraud"] for row in rows):
            rows[-1]["fraud"] = True
        return rows

    def _fraud(self, actor: int, last: int, typical: float) -> list[dict[str, Any]]:
        rng = self._rng
        if self._kind == "testing":  # small charges within minutes, then a large one
            start, place = int(rng.integers(0, 5 * 60)), int(rng.integers(20, 40))
            small = [self._row(actor, place, last, start + 2 * i, 1.5, True) for i in range(int(rng.integers(3, 6)))]
            return [*small, self._row(actor, place, last, start + 20, 6 * typical, True)]
        if self._kind == "terminal":  # ordinary amounts at one place
            return [self._row(actor, 1, max(last - i, 0), self._daytime(), typical, True) for i in range(3)]
        factor = 8.0 if self._kind == "large" else 5.0
        return [
            self._row(actor, int(rng.integers(2, 40)), max(last - i, 0), self._daytime(), factor * typical, True)
            for i in range(1 if self._kind == "large" else 4)
        ]

    def _daytime(self) -> int:
        return int(self._rng.normal(13 * 60, 5 * 60)) % 1440

    def _row(self, actor: int, place: int, day: int, minute: int, typical: float, fraud: bool) -> dict[str, Any]:
        row: dict[str, Any] = {"actor": actor, "place": place, "day": day, "minute": minute, "fraud": fraud}
        for column in self._facts["schema"]["columns"]:
            row[column["column"]] = self._value(column, typical, fraud)
        return row

    def _value(self, column: dict[str, Any], typical: float, fraud: bool) -> float | str:
        rng = self._rng
        if column["kind"] == "amount":
            amount = abs(float(rng.normal(typical, typical / 2))) + 0.01
            return round(min(max(amount, float(column["least"])), self._most), 2)
        if column["kind"] == "number":
            low, high = float(column["least"]), float(column["most"])
            return round(float(np.clip(rng.normal((low + high) / 2, (high - low) / 20), low, high)), 4)
        if column["kind"] == "category":
            words = column["words"] if isinstance(column["words"], list) else ["A", "B", "C"]
            return str(words[int(rng.integers(len(words)))])
        phrases = _PHRASES[fraud and bool(rng.random() < 0.3)]  # the text hints at the label and does not tell it
        return f"{phrases[int(rng.integers(len(phrases)))]} {int(rng.integers(100, 999))}"


def _kind(scenario: str) -> str:
    said = set(_words(scenario))
    for kind, known in (
        ("testing", {"test", "testing", "small", "probe", "micro"}),
        ("terminal", {"terminal", "merchant", "skimming", "skimmed", "shop"}),
        ("large", {"large", "single", "big"}),
    ):
        if said & known:
            return kind
    return "takeover"
