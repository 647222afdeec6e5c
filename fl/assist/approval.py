"""Write rows to a csv for review by a person, and read the decisions, before a model trains on the rows.

The file holds a line per row with its findings, its provider, and three empty cells: `decision` (accept or reject),
`comment`, `reviewer`. Only these three may change. A row without a decision is not approved, an accepted row needs a
reviewer's name, and nobody can accept a row with a blocking finding.

Cells that a spreadsheet would take for a formula are written with a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fl.assist.errors import ApprovalError
from fl.durable import replace_durably
from fl.spreadsheet import SafeWriter, unescaped

DECISIONS = ("accept", "reject")
_OURS = ("row", "decision", "reviewer", "comment", "findings", "made_by")


@dataclass(frozen=True)
class Candidate:
    """A row to decide about. `cells`: its values as text. `blocked`: whether its `findings` forbid to accept it."""

    cells: Mapping[str, str]
    findings: str
    blocked: bool


@dataclass(frozen=True)
class Approval:
    """The decisions in one file. `accepted`: row numbers, ascending."""

    accepted: tuple[int, ...]
    rejected: int
    undecided: int
    reviewers: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return {
            "accepted": len(self.accepted),
            "rejected": self.rejected,
            "undecided": self.undecided,
            "reviewers": list(self.reviewers),
        }


def write_approval(path: Path, candidates: Sequence[Candidate], made_by: str) -> None:
    """Write the file for the reviewers. Raises `ApprovalError` when it exists: it may hold decisions."""
    if path.exists():
        raise ApprovalError(f"{path} exists and may hold decisions: move it away, or choose another --work")
    _write(path, [{**_fixed(i, c, made_by), **_open(c)} for i, c in enumerate(candidates)])


def accept_unflagged(path: Path, candidates: Sequence[Candidate], made_by: str, reviewer: str) -> int:
    """Accept, in `reviewer`'s name, every undecided row without any finding; returns how many."""
    if not reviewer.strip():
        raise ApprovalError("accepting rows needs the name of the person who accepts them: --by NAME")
    lines, count = _read(path, candidates, made_by), 0
    for line, candidate in zip(lines, candidates, strict=True):
        if not line["decision"] and not candidate.findings:
            line |= {"decision": "accept", "reviewer": reviewer}
            count += 1
    _write(path, lines)
    return count


def read_approval(path: Path, candidates: Sequence[Candidate], made_by: str) -> Approval:
    """The decisions in the file about exactly these candidates.

    Raises `ApprovalError` naming row and column for an altered cell, an unknown decision, an accepted row that is
    blocked or has no reviewer, and missing or added rows.
    """
    accepted, rejected, reviewers = [], 0, set()
    for number, (line, candidate) in enumerate(zip(_read(path, candidates, made_by), candidates, strict=True)):
        decision, reviewer = line["decision"].strip().lower(), line["reviewer"].strip()
        if decision not in ("", *DECISIONS):
            raise ApprovalError(f"{path}: row {number}: expected {' or '.join(DECISIONS)} or nothing, got {decision!r}")
        if decision == "accept":
            if candidate.blocked:
                raise ApprovalError(f"{path}: row {number} cannot be accepted: {candidate.findings}")
            if not reviewer:
                raise ApprovalError(f"{path}: row {number} is accepted without a reviewer: fill in reviewer")
            accepted.append(number)
            reviewers.add(reviewer)
        rejected += decision == "reject"
    undecided = len(candidates) - len(accepted) - rejected
    return Approval(tuple(accepted), rejected, undecided, tuple(sorted(reviewers)))


def _fixed(number: int, candidate: Candidate, made_by: str) -> dict[str, str]:
    return {"row": str(number), "findings": candidate.findings, "made_by": made_by, **candidate.cells}


def _open(candidate: Candidate) -> dict[str, str]:
    return {"decision": "reject" if candidate.blocked else "", "reviewer": "", "comment": ""}


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _same(one: str, other: str) -> bool:
    """Whether two cells are equal up to the changes that spreadsheets make to numbers and capitals."""
    a, b = _number(one), _number(other)
    if a is not None and b is not None:
        return a == b
    return one.strip().casefold() == other.strip().casefold()


def _write(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    names = [*_OURS, *(name for name in (lines[0] if lines else {}) if name not in _OURS)]
    text = io.StringIO(newline="")
    writer = SafeWriter(text)
    writer.row(names)
    writer.rows([line[name] for name in names] for line in lines)
    replace_durably(path, text.getvalue().encode())


def _read(path: Path, candidates: Sequence[Candidate], made_by: str) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        read = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise ApprovalError(f"{path}: cannot read the decisions: {fault}") from fault
    lines = [
        {unescaped(name): unescaped(value) for name, value in line.items() if name is not None and value is not None}
        for line in read
    ]
    if len(lines) != len(candidates):
        raise ApprovalError(
            f"{path}: expected {len(candidates)} rows, got {len(lines)}: reject rows, do not delete them"
        )
    for number, (line, candidate) in enumerate(zip(lines, candidates, strict=True)):
        expected = _fixed(number, candidate, made_by)
        absent = {*expected, *_OURS} - set(line)
        if absent:
            raise ApprovalError(f"{path}: row {number}: expected the columns {sorted(absent)}, which are missing")
        for name, value in expected.items():
            if not _same(line[name], value):
                raise ApprovalError(
                    f"{path}: row {number}, column {name!r} was changed: only decision, reviewer and comment may change"
                )
    return lines


@dataclass(frozen=True)
class Proposal:
    """Candidates in a folder that wait for decisions. `about`: their provider and origin, as JSON."""

    folder: Path
    kind: str
    candidates: tuple[Candidate, ...]
    about: Mapping[str, Any]

    @property
    def csv(self) -> Path:
        return self.folder / "approval.csv"

    @property
    def made_by(self) -> str:
        """Provider, model and prompt, as the csv repeats them in every row."""
        provider: Mapping[str, str] = self.about["made_by"]
        return f"{provider['provider']}, {provider['model']}, {provider['prompt']}"

    def accept_unflagged(self, reviewer: str) -> int:
        """Accept, in `reviewer`'s name, every undecided row without findings; returns how many."""
        return accept_unflagged(self.csv, self.candidates, self.made_by, reviewer)

    def approval(self) -> Approval:
        """The current decisions in the csv. Raises `ApprovalError`."""
        return read_approval(self.csv, self.candidates, self.made_by)

    def require_accepted(self) -> Approval:
        """The same; raises `ApprovalError` when nothing is accepted."""
        approval = self.approval()
        if not approval.accepted:
            raise ApprovalError(
                f"{self.csv}: nothing is accepted yet: fill in decision and reviewer, or accept all unflagged "
                f"rows with: python -m demos assist approve {self.folder} --accept-unflagged --by NAME"
            )
        return approval


def propose(folder: Path, kind: str, candidates: Sequence[Candidate], about: Mapping[str, Any]) -> Proposal:
    """Write candidates and their approval file into `folder`. Raises `ApprovalError` when the file exists."""
    proposal = Proposal(folder, kind, tuple(candidates), about)
    folder.mkdir(parents=True, exist_ok=True)
    write_approval(proposal.csv, candidates, proposal.made_by)
    content = {"kind": kind, "about": dict(about), "candidates": [asdict(candidate) for candidate in candidates]}
    replace_durably(folder / "candidates.json", json.dumps(content).encode())
    return proposal


def open_proposal(folder: Path, kind: str | None = None) -> Proposal:
    """The proposal in `folder`. Raises `ApprovalError` when there is none, or one of another kind."""
    path = folder / "candidates.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        candidates = tuple(Candidate(**candidate) for candidate in content["candidates"])
        proposal = Proposal(folder, content["kind"], candidates, content["about"])
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ApprovalError(f"{path}: expected candidates, written by synth or finetune propose: {fault}") from fault
    if kind is not None and proposal.kind != kind:
        raise ApprovalError(f"{folder}: expected candidates of kind {kind!r}, got {proposal.kind!r}")
    return proposal
