"""A wheel of the project holds `secagg` and `fl` only; the commands and the benchmarks are distributions beside it."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
CORE = ("secagg", "fl")
BESIDE = {"demos": "secagg-demo", "benchmarks": "secagg-bench"}


def settings(folder: Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(folder / "setup.cfg")
    return config


def on_disk(*names: str) -> set[str]:
    """Every folder with Python files below the packages `names`, dotted."""
    files = (path for name in names for path in (ROOT / name).rglob("*.py"))
    return {".".join(path.parent.relative_to(ROOT).parts) for path in files}


def test_the_wheel_holds_every_package_of_secagg_and_fl_and_no_other() -> None:
    config = settings(ROOT)
    include = config["options.packages.find"]["include"].split()
    assert set(find_packages(str(ROOT), include=include)) == on_disk(*CORE)
    assert not config.has_section("options.entry_points")


@pytest.mark.parametrize("name", BESIDE)
def test_a_distribution_beside_it_lists_its_packages_and_owns_its_console_script(name: str) -> None:
    config = settings(ROOT / name)
    assert config["metadata"]["name"] == f"secagg-{name}"
    assert config["metadata"]["version"] == settings(ROOT)["metadata"]["version"]
    assert set(config["options"]["packages"].split()) == on_disk(name)
    assert config["options"]["package_dir"].split() == [name, "=", "."]
    scripts = config["options.entry_points"]["console_scripts"].split()
    assert scripts == [BESIDE[name], "=", f"{name}.__main__:main"]


@pytest.mark.parametrize("name", BESIDE)
def test_a_distribution_beside_it_requires_what_its_extra_names_and_nothing_of_this_project(name: str) -> None:
    """This project is on no index: whoever takes its name there would be installed."""
    required = settings(ROOT / name)["options"]["install_requires"].split()
    extra = settings(ROOT)["options.extras_require"][name].split()
    assert sorted(required) == sorted(extra)
    assert not any(each.startswith("secagg") for each in required)


def test_make_installs_all_three() -> None:
    assert "-e '.[all]' -e ./demos -e ./benchmarks" in (ROOT / "Makefile").read_text(encoding="utf-8")
