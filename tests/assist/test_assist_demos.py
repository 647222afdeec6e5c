"""Every example that `demos assist ... --help` prints works as printed."""

from __future__ import annotations

import glob
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from pytest_httpserver import HTTPServer

from demos.__main__ import cli
from demos.assist import assist
from fl.assist import stories
from fl.assist.descriptions import Described
from fl.assist.stories import DataChoice, Effort


def _examples(command: click.Command) -> Iterator[str]:
    """Command lines in the help of a command and of everything under it, groups first, in reading order."""
    text = re.sub(r"\\\n\s*", " ", command.help or "")
    yield from (line.strip() for line in text.splitlines() if line.strip().startswith("python -m demos"))
    if isinstance(command, click.Group):
        for name in command.commands:
            yield from _examples(command.commands[name])


EXAMPLES = list(_examples(assist))


@pytest.fixture
def run(
    described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> Callable[[str], Result]:
    """Runs a printed line in an empty folder, on small data and with short training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("OPENAI_BASE_URL", httpserver.url_for("/v1"))
    monkeypatch.setattr(DataChoice, "read", lambda _: described)
    schedule = Effort.schedule
    monkeypatch.setattr(Effort, "schedule", property(lambda self: replace(schedule.fget(self), rounds=1)))

    def one(line: str) -> Result:
        words = shlex.split(line.removeprefix("python -m demos "))
        shell = [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]
        quick = ["--repeats", "1", "--replicates", "100"]
        return CliRunner().invoke(cli, [*shell, *(quick if _takes_effort(shell) else [])])

    return one


def _takes_effort(words: list[str]) -> bool:
    return words[1] in ("compare", "features", "review")


def _expect(result: Result, code: int = 0) -> Result:
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_help_prints_examples_of_every_command() -> None:
    named = {" ".join(line.split()[3:6]) for line in EXAMPLES}
    for command in (
        "synth",
        "approve",
        "compare",
        "features",
        "review",
        "status",
        "finetune propose",
        "finetune build",
    ):
        assert any(name.startswith(f"assist {command}") for name in named), command


@pytest.mark.long
def test_the_examples_work_as_printed_one_after_another(run: Callable[[str], Result], tmp_path: Path) -> None:
    done = set()
    for line in EXAMPLES:
        if line in done or "finetune submit" in line or "finetune status" in line:
            continue
        done.add(line)
        result = _expect(run(line))
        if "--dry-run" in line:
            bodies = [json.loads(body) for body in result.stdout.splitlines()]
            assert bodies and all(body["model"] == "NAME" for body in bodies)
        elif "finetune" not in line and not line.endswith(("status", "approve runs/assist/synthetic")):
            assert "no language model" in result.stdout or "approve" in line
    assert not (tmp_path / "runs/assist/gateway.jsonl").exists(), "nothing was sent"


def test_a_job_is_submitted_only_with_a_word_for_text_and_label(run: Callable[[str], Result], tmp_path: Path) -> None:
    for line in EXAMPLES:
        if "assist finetune propose" in line or "assist finetune build" in line:
            result = run(line)
            assert result.exit_code in (0, 1)
    (submit,) = [line for line in EXAMPLES if "finetune submit" in line]
    result = _expect(run(submit))
    assert b"messages" in result.stdout_bytes and "2027-01-06" in result.stderr
    without = _expect(run(submit.replace("--allow IS_FRAUD", "")), 1)
    assert "IS_FRAUD" in str(without.exception) and "messages" not in without.stdout


def test_the_state_of_a_job_is_asked_for_as_printed(run: Callable[[str], Result], httpserver: HTTPServer) -> None:
    job = {
        "id": "JOB", "object": "fine_tuning.job", "status": "succeeded", "model": "NAME", "created_at": 0,
        "fine_tuned_model": "tuned", "trained_tokens": 9, "training_file": "file-1", "hyperparameters": {},
        "organization_id": "", "result_files": [], "seed": 0,
    }  # fmt: skip
    httpserver.expect_request("/v1/fine_tuning/jobs/JOB", method="GET").respond_with_json(job)
    (line,) = [line for line in EXAMPLES if "finetune status" in line]
    assert "tuned" in _expect(run(line)).stdout
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("assist features --provider openai", "--model"),
        ("assist features --dry-run", "--provider openai"),
        ("assist features --price-in 1", "--price-out"),
        ("assist approve runs/x --accept-unflagged", "--by"),
        ("assist finetune submit e.jsonl", "--provider openai"),
        ("assist finetune local a.jsonl", "at least 3"),
        ("assist synth", "--scenario"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_to_do(
    run: Callable[[str], Result], line: str, advice: str, tmp_path: Path
) -> None:
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/candidates.json").write_text('{"kind": "k", "about": {}, "candidates": []}')
    assert advice in _expect(run(f"python -m demos {line}"), 2).stderr


def test_json_stands_alone_on_stdout_and_names_who_made_it(run: Callable[[str], Result]) -> None:
    result = _expect(run("python -m demos assist synth --scenario theft --rows 40 --json"))
    made: dict[str, Any] = json.loads(result.stdout)
    assert made["made_by"]["provider"] == "offline" and "no language model" in made["made_by"]["note"]
    assert {"near_copy", "range"} >= set(made["validation"]["found"]) - {"separable"}


def test_aggregates_are_asked_for_by_name(run: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = stories.released_aggregates
    monkeypatch.setattr(stories, "released_aggregates", lambda f: asked.append(1) or original(f))
    _expect(run("python -m demos assist synth --scenario theft --rows 4 --work runs/a"))
    assert asked == []
    _expect(run("python -m demos assist synth --scenario theft --rows 4 --work runs/b --with-aggregates"))
    assert asked == [1]
