"""The command `round`: its report says what was measured, and nothing of what was not."""

import json
import re

import pytest
from click.testing import CliRunner

from demos.round import round_command

SMALL = ["--clients", "4", "--length", "2000"]


@pytest.mark.parametrize(("engine", "timed"), [("seal", True), ("fast", False)])
def test_the_time_of_the_checks_stands_there_only_where_it_was_measured(engine: str, timed: bool) -> None:
    if engine == "fast":
        pytest.importorskip("numba", reason="the fast engine needs the extra 'fast'")
    told = CliRunner().invoke(round_command, [*SMALL, "--engine", engine], catch_exceptions=False).output
    line = " ".join(told[told.index("masks: ") : told.index("integer sums: ")].split())
    assert re.search(r"checks [\d.]+ m?s$" if timed else r"checks as part of decrypting$", line), line

    report = CliRunner().invoke(round_command, [*SMALL, "--engine", engine, "--json"], catch_exceptions=False).stdout
    checks = json.loads(report)["masks"]["seconds_key_holder_checks"]
    assert checks > 0 if timed else checks is None
