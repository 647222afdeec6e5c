"""Write and check examples for fine-tuning: approved, redacted descriptions with labels, one JSON object per line.

The lines have the form that OpenAI's supervised fine-tuning takes (`messages` of system, user and assistant). The
same file trains a local text head (`text_head`), which a bank can run without sending anything.

`NAME.json` beside `NAME.jsonl` names the origin of the lines and holds the file's SHA-256. A file that was
changed afterwards is refused. Self-serve fine-tuning at OpenAI takes no new jobs from 2027-01-06 on.

The number of tokens of a text depends on the model. A token stands for at least one byte, so the number of bytes is
an upper bound. A quarter of it is the usual estimate for English.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl.assist.errors import ExampleError
from fl.assist.prompts import load_prompt
from fl.assist.redact import Redactor
from fl.durable import replace_durably, replace_json

FRAUD, GENUINE = "fraud", "genuine"
LEAST_EXAMPLES = 10  # the fewest that OpenAI accepts
ROLES = ["system", "user", "assistant"]
ENDING = "From 2027-01-06 on OpenAI takes no new self-serve fine-tuning jobs."


@dataclass(frozen=True)
class Example:
    """A redacted description and whether it was a fraud."""

    text: str = field(repr=False)
    fraud: bool

    def line(self) -> str:
        """This example as one line of JSON."""
        answer = FRAUD if self.fraud else GENUINE
        contents = (load_prompt("describe").text, self.text, answer)
        messages = [{"role": role, "content": content} for role, content in zip(ROLES, contents, strict=True)]
        return json.dumps({"messages": messages}, ensure_ascii=False)


@dataclass(frozen=True)
class ExampleFile:
    """A checked file of examples."""

    path: Path
    examples: tuple[Example, ...] = field(repr=False)
    sha256: str
    bytes: int
    bank: str  # name of the bank that the rows belong to

    @property
    def frauds(self) -> int:
        return sum(example.fraud for example in self.examples)

    def as_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "examples": len(self.examples),
            "frauds": self.frauds,
            "tokens_at_most": self.bytes,
            "tokens_guessed": -(-self.bytes // 4),
        }


def write_examples(path: Path, examples: Sequence[Example], origin: dict[str, Any]) -> ExampleFile:
    """Write `path` (.jsonl) and its origin (with the key "bank") beside it, then read and check both.

    Raises `ExampleError`.
    """
    if path.suffix != ".jsonl":
        raise ExampleError(f"{path}: expected a name that ends in .jsonl")
    content = "".join(example.line() + "\n" for example in examples).encode()
    replace_durably(path, content)
    known = {"sha256": hashlib.sha256(content).hexdigest(), "examples": len(examples), **origin, "note": ENDING}
    replace_json(path.with_suffix(".json"), known)
    return read_examples(path)


def read_examples(path: Path, redactor: Redactor | None = None) -> ExampleFile:
    """Read and check a file of examples, against the origin beside it and, if given, a bank's redactor.

    Raises `ExampleError` naming the line: for a line of another form, too few examples, only one class, one text
    with both labels, a text that still holds a digit or an address, or a file that is not the one written.
    """
    content, origin = _content(path)
    lines = content.decode("utf-8").splitlines()
    examples = tuple(_example(path, number, line) for number, line in enumerate(lines, start=1))
    frauds = sum(example.fraud for example in examples)
    if len(examples) < LEAST_EXAMPLES or not 0 < frauds < len(examples):
        raise ExampleError(
            f"{path}: expected {LEAST_EXAMPLES} or more examples of both kinds, got {len(examples)}, {frauds} frauds"
        )
    checked = redactor or Redactor(frozenset(), frozenset(), frozenset(), frozenset())
    for number, example in enumerate(examples, start=1):
        kinds = [k for k in checked.leaks(example.text) if redactor is not None or k != "a rare word"]
        if kinds:
            raise ExampleError(f"{path}: line {number} is not redacted: it holds {' and '.join(kinds)}")
    return ExampleFile(path, examples, hashlib.sha256(content).hexdigest(), len(content), str(origin["bank"]))


def _content(path: Path) -> tuple[bytes, dict[str, Any]]:
    beside = path.with_suffix(".json")
    try:
        content = path.read_bytes()
        origin = json.loads(beside.read_text(encoding="utf-8"))
        content.decode("utf-8")
    except (OSError, ValueError) as fault:
        raise ExampleError(f"{path}: cannot read it and {beside.name} beside it: {fault}") from fault
    if (
        not isinstance(origin, dict)
        or "bank" not in origin
        or origin.get("sha256") != hashlib.sha256(content).hexdigest()
    ):
        raise ExampleError(f"{path}: its SHA-256 is not the one in {beside.name}, so it was changed: build it again")
    return content, origin


def _example(path: Path, number: int, line: str) -> Example:
    try:
        messages = json.loads(line)["messages"]
        roles = [message["role"] for message in messages]
        contents = [message["content"] for message in messages]
    except (ValueError, KeyError, TypeError) as fault:
        raise ExampleError(f"{path}: line {number}: expected a JSON object with messages") from fault
    if roles != ROLES or not all(isinstance(content, str) and content for content in contents):
        raise ExampleError(f"{path}: line {number}: expected texts of {', '.join(ROLES)}, got roles {roles}")
    if contents[2] not in (FRAUD, GENUINE):
        raise ExampleError(f"{path}: line {number}: expected the answer {FRAUD} or {GENUINE}")
    return Example(contents[1], contents[2] == FRAUD)
