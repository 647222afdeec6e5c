"""The cost of robust rounds is measured on rounds that are played, and what cannot be played is told."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks import robust_cost
from benchmarks.__main__ import cli
from secagg.sketchplan import pairs


def test_a_small_round_is_measured_and_what_is_too_large_is_refused_by_name():
    said = []
    small, large = robust_cost.measure((300,), (3, 140), 1, 0, 1, said.append)
    assert said == ["300 values, 3 clients", "300 values, 140 clients"]
    assert small.looks == 1 and small.products_bytes > 6 * 24_576 and small.robust_bytes > small.plain_bytes + 92_160
    assert min(small.plain_s, small.robust_s, small.sketch_s, small.products_s, small.opening_s, small.numpy_s) > 0
    assert (
        small.plain_cpu_s > 0
        and small.robust_cpu_s > 0
        and small.stock_s / pairs(3) == pytest.approx(large.stock_s / pairs(140))
    )
    assert "up to 128 clients" in large.refused and large.robust_s == 0


def test_the_command_prints_the_figures_as_json(monkeypatch):
    found = [
        robust_cost.Cost(10, 3, 0.1, 0.2, 0.1, 0.15, 0.01, 0.02, 0.03, 100, 200, 300, 1, 0.001, 0.5),
        robust_cost.Cost(10, 140, refused="no"),
    ]
    monkeypatch.setattr(robust_cost, "measure", lambda *_: found)
    result = CliRunner().invoke(cli, ["robust", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)[0]["robust_bytes"] == 200
    table = CliRunner().invoke(cli, ["robust"], env={"COLUMNS": "200"})
    assert "+100.0%" in table.stdout and "+50.0%" in table.stdout and "refused" in table.stdout
