"""Raw transactions never reach a log, a report or a run folder: markers planted in a csv are looked for everywhere."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from demos.card import card
from demos.evaluate import evaluate
from demos.train import train
from fl.data.simulate import Simulation, simulate

CUSTOMER, TERMINAL, TEXT = "QXJ7731CUSTOMER", "WVK5519TERMINAL", "zzkeepthisout"
AMOUNT = "7319.137"  # digits that nothing else has
COMMANDS = {"train": train, "evaluate": evaluate, "card": card}
SCHEMA = """\
[label]
column = "IS_FRAUD"
delay_days = 7
[time]
column = "TIME"
[amount]
column = "AMOUNT"
[parties]
customer = "CUSTOMER"
terminal = "TERMINAL"
shared = ["terminal"]
[[text]]
column = "DESCRIPTION"
use = true
[partition]
column = "BANK"
[split]
train = [2024-02-12, 2024-02-18]
test = [[2024-02-26, 2024-03-03]]
"""
TERMINALS_MAY_STAND = "totals.npz"  # the public directory of the terminals that counts are shared of


def planted(folder: Path) -> Path:
    """A csv whose every customer, text and terminal carries a marker, and a tenth of its rows an odd amount."""
    data = simulate(Simulation(160, 80, banks=3, fraud_share=0.03, seed=2))
    data["CUSTOMER"] = CUSTOMER + data.CUSTOMER
    data["TERMINAL"] = TERMINAL + data.TERMINAL
    data["DESCRIPTION"] = data.DESCRIPTION + " " + TEXT
    odd = np.arange(len(data)) % 10 == 0
    data["AMOUNT"] = data.AMOUNT.astype(str).where(~odd, AMOUNT)
    path = folder / "planted.csv"
    data.to_csv(path, index=False)
    (folder / "planted.toml").write_text(SCHEMA)
    return path


def played(*arguments: object) -> bytes:
    """What a command prints, its error included, as a person or a log would keep it."""
    name, *rest = map(str, arguments)
    done = CliRunner().invoke(COMMANDS[name], rest)
    return (done.stdout + done.stderr + repr(done.exception)).encode()


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file, and of every member of a file that is an archive."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from ((path.name, archive.read(name)) for name in archive.namelist())


def found_in(content: bytes, marker: str) -> bool:
    """Whether the marker stands in these bytes, as UTF-8 or as numpy keeps text."""
    return any(marker.encode(encoding) in content for encoding in ("utf-8", "utf-32-le", "utf-16-le"))


@pytest.mark.long
@pytest.mark.parametrize("privacy", [("--no-dp",), ("--epsilon", "3", "--local-steps", "2")])
def test_no_marker_leaves_the_csv(
    privacy: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    data, run, page = planted(tmp_path), tmp_path / "run", tmp_path / "out" / "report.html"
    page.parent.mkdir()
    options = ["--rounds", "2", "--local-epochs", "1", "--run-dir", run]
    outputs = [
        played("train", "--data", data, "--schema", tmp_path / "planted.toml", *privacy, *options),
        played("evaluate", run, "--by", "bank", "--by", "AMOUNT", "--html", page),
        played("card", run),
        played("train", "--resume", run, "--json"),
        played("evaluate", run, "--by", "CUSTOMER"),
        played("evaluate", run, "--by", "TRANSACTION"),
        played("evaluate", run, "--by", "NOWHERE"),
    ]
    assert b"SystemExit" not in outputs[0], outputs[0].decode()
    assert b"ExaminationError" in outputs[4] and b"ExaminationError" in outputs[6]
    written = capfd.readouterr()
    logged = "\n".join([caplog.text, written.out, written.err, *(str(warning.message) for warning in recwarn)])
    kept = [*contents(run), *contents(page.parent), *(("output", output) for output in [*outputs, logged.encode()])]
    assert {"report.json", "report.html", "dpia.md", "model.safetensors", "metrics.jsonl"} <= {name for name, _ in kept}
    for marker in (CUSTOMER, TEXT, AMOUNT, TERMINAL):
        where = {name for name, content in kept if found_in(content, marker)}
        assert where <= ({TERMINALS_MAY_STAND} if marker == TERMINAL else set()), (marker, where)


def test_a_marker_in_an_archive_would_be_found(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", names=np.array([CUSTOMER + "C1"]))
    pd.DataFrame({"x": [TEXT]}).to_csv(tmp_path / "b.csv")
    kept = list(contents(tmp_path))
    assert {name for name, content in kept if found_in(content, CUSTOMER)} == {"a.npz"}
    assert {name for name, content in kept if found_in(content, TEXT)} == {"b.csv"}
