"""Text of a peer in a log or on a terminal: one event is one line, and nothing in it acts."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from flower_federation import QUICK, only
from flwr.app import Error, Message

from fl.flower.errors import FlowerError
from fl.flower.logs import MAX_TEXT, RoleLog, read_log
from fl.flower.transport import Call, to_records
from fl.text import printable, printable_json

ACTING = [
    chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp", "Cs")
]


def test_the_search_below_knows_the_characters_that_the_review_named() -> None:
    named = "\u2028\u2029\u0085\u009b\x1b\x7f\u202e\u2066\u200b\ufeff\U000e0041\ud800"
    assert set(named) <= set(ACTING) and len(ACTING) > 2_000


def test_no_character_that_acts_comes_through_and_letters_stay_letters() -> None:
    assert [c for c in ACTING if printable(c).isascii() is False or c in printable(c)] == []
    assert [c for c in ACTING if c in printable_json(json.dumps(c, ensure_ascii=False))] == []
    for text in ("Sparkasse Köln", "Банк", "銀行 1", "naïve café", "a\\u2028b", ""):
        assert printable(text) == text and printable_json(text) == text
    assert printable("a\u2028b\x1b[2Jc\ud800") == "a\\u2028b\\x1b[2Jc\\ud800"
    assert printable("one\ntwo\u0085", keep="\n") == "one\ntwo\\x85"


def test_every_acting_character_stays_inside_its_line_of_a_log_and_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RoleLog("bank", "north\u2028", path)
    # Apart from each other, because two surrogates side by side read back as one character.
    texts = [" ".join(ACTING[start : start + 150]) for start in range(0, len(ACTING), 150)]
    for text in texts:
        log("peer\u0085said", message=text, banks=[text[:5], "plain"])
    written = path.read_bytes().decode("utf-8")
    assert not [c for c in ACTING if c != "\n" and c in written]
    assert len(written.splitlines()) == len(written.split("\n")) - 1 == len(texts)
    assert [event["message"] for event in read_log(path)] == texts
    assert {event["organisation"] for event in read_log(path)} == {"north\u2028"}


def test_a_log_line_on_standard_error_holds_no_escape_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECAGG_LOG", raising=False)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    RoleLog("aggregator", "a")("node set aside", message="\x9b2J\u202e\x7f")
    assert shown.getvalue().isascii() and shown.getvalue().count("\n") == 1


def test_each_text_in_a_list_is_as_short_as_a_text_alone(tmp_path: Path) -> None:
    log = RoleLog("bank", "north", tmp_path / "log.jsonl")
    log("event", banks=["x" * 10_000, "y"])
    (event,) = read_log(tmp_path / "log.jsonl")
    first, second = event["banks"]  # type: ignore[misc]
    assert len(first) < MAX_TEXT + 10 and second == "y"


BRIEF = replace(QUICK, ready_s=0.1)  # nobody is waited for who said why it takes no part
ESCAPE = '\x1b]0;owned\x07\u2028{"event": "forged"}\x9b1A'


def refuses(message: Message, deliver) -> Message:  # type: ignore[no-untyped-def]
    return Message(to_records(Call({"error": "Refused\u0085", "message": ESCAPE}), "contribute"), reply_to=message)


def fails(message: Message, deliver) -> Message:  # type: ignore[no-untyped-def]
    return Message(Error(code=2, reason=ESCAPE), reply_to=message)


@pytest.mark.parametrize("fault", [refuses, fails])
@pytest.mark.parametrize("action", ["contribute", "join", "status"])
def test_what_a_peer_says_about_its_failure_reaches_errors_and_logs_as_plain_text(
    federation, tmp_path: Path, fault, action: str
) -> None:
    here = federation(banks=3)
    here.fail("bank-1", only(action, fault))
    with pytest.raises(FlowerError) as caught:
        here.rounds(BRIEF).run(1)
    assert str(caught.value).isprintable()
    assert "owned" in str(caught.value) or action == "status"
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert all(line.isprintable() for line in lines.split("\n"))
    assert "forged" not in {event["event"] for event in read_log(tmp_path / "log.jsonl")}


def test_what_a_banks_app_reports_is_shown_as_plain_text_and_numbers_that_json_has(federation) -> None:
    here = federation()

    def report(message: Message, deliver) -> Message:  # type: ignore[no-untyped-def]
        said = {"loss": float("nan"), "high": float("inf"), "note\u2028": "a\x9bb", "count": 3}
        return Message(to_records(Call(said), "evaluate"), reply_to=message)

    here.fail("bank-0", only("evaluate", report))
    said = here.rounds().run(1, evaluate=True).reports["bank-0"]
    assert said == {"loss": None, "high": None, "note\\u2028": "a\\x9bb", "count": 3}
    json.dumps(said, allow_nan=False)
