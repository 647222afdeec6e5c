"""Every command at the top of the page on trees runs, in the order in which it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import claims
import pytest
from click.testing import CliRunner

from demos.__main__ import cli

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "trees.md").read_text()
COMMANDS = re.findall(r"^    python -m demos (.+)$", PAGE.split("\n## ")[0], re.MULTILINE)


def played(commands: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """By command: what it says, without line breaks."""
    pytest.importorskip("xgboost", reason="xgboost is not installed (extra `trees`)")
    monkeypatch.chdir(folder)
    claims.write(folder, 700)
    new = claims.claims(200, seed=9)
    new.assign(day=new["day"] + 1000).to_csv("new.csv", index=False)
    said = {}
    for command in commands:
        result = CliRunner().invoke(cli, shlex.split(command), catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
        said[command.split()[0]] = " ".join(result.output.split())
    return said


def test_the_first_commands_of_the_page_train_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = played(COMMANDS[:2], tmp_path, monkeypatch)
    for words in ("plan:", "21 sums", "bit for bit", "hold a single one at the root", "5 trees of depth 4"):
        assert words in said["train"]
    assert "scored" in said["score"] and Path("scores.csv").stat().st_size > 0


@pytest.mark.long
def test_all_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = played(COMMANDS, tmp_path, monkeypatch)
    assert set(said) == {"train", "score", "threshold", "evaluate", "card", "export", "ablate"}
    for name in ("scores.csv", "report.html", "fraud.onnx", "fraud.json", "runs/trees/model-card.md"):
        assert Path(name).stat().st_size > 0
    assert "TreeSHAP" in Path("report.html").read_text()
    assert "without trees" in said["ablate"]


def test_the_help_of_train_names_every_option_of_trees() -> None:
    said = CliRunner().invoke(cli, ["train", "--help"]).output
    for word in ("--trees", "--depth", "--learning-rate", "--bins", "tree_penalty", "patience", "--model trees"):
        assert word in said
