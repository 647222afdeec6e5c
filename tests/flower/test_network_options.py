"""Options of `demos network` that do not fit each other are refused before anything starts."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from demos.__main__ import cli


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--model", "trees", "--epsilon", "3"], "the sums of trees are exact and have none"),
        (["--model", "trees", "--robust", "outliers"], "trees grow by sums of all banks' histograms"),
        (["--model", "trees", "--rounds", "3"], "--rounds follow from --trees and --depth"),
        (["--trees", "3"], "--trees is an option of trees: give --model trees"),
        (["--model", "mlp", "--learning-rate", "0.5"], "--learning-rate is an option of trees"),
        (["--model", "mlp", "--epsilon", "3"], "--epsilon trains the noisy-or model"),
        (["--model", "forest"], "forest"),
    ],
)
def test_options_of_another_model_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], message: str
) -> None:
    monkeypatch.setattr("demos.network._played", lambda *_: pytest.fail("the network was started"))
    result = CliRunner().invoke(cli, ["network", *asked])
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_trees_are_played_with_the_options_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[object, ...]] = []

    def play(*given: object) -> None:
        played.append(given)
        raise SystemExit(0)

    monkeypatch.setattr("demos.network._played", play)
    CliRunner().invoke(cli, ["network", "--model", "trees", "--trees", "7", "--bins", "16", "--banks", "4"])
    ((_, banks, rounds, customers, _, timeout, _, rule, grown),) = played
    assert (banks, rounds, customers, timeout, rule) == (4, None, 900, 3600.0, None)
    assert grown == {"trees": 7, "depth": None, "learning_rate": None, "bins": 16}
