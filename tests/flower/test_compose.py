"""The compose files of fl/flower/deploy start what the guides beside them start, and open nothing that they do not."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "fl" / "flower" / "deploy"
COMPOSE = DEPLOY / "compose"
ROLES = ("aggregator", "bank", "key-holder")
PARTIES = {
    "aggregator": ("superlink", "operator"),
    "bank": ("supernode", "resident"),
    "key-holder": ("supernode", "resident"),
}
DOCKERFILE = (COMPOSE / "Dockerfile").read_text()


def services(role: str) -> dict[str, dict[str, Any]]:
    """By name, with what they take from the common parts of the file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / f"{role}.yaml").read_text())["services"]
    return found


def guide_commands(role: str) -> list[list[str]]:
    """Commands of the guide, their lines joined, as words without quotes."""
    text = (DEPLOY / f"{role}.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    return [line.split("#")[0].replace("'", "").split() for line in lines]


def words(command: list[str]) -> list[str]:
    """The words of a command, where --option=value is two."""
    return [word for each in command for word in (each.split("=", 1) if each.startswith("--") else [each])]


@pytest.mark.parametrize("role", ROLES)
def test_the_programs_are_those_of_the_guide_with_the_same_options(role: str) -> None:
    guide = guide_commands(role)
    programs = {"superlink", "supernode", "resident"} & set(services(role))
    assert programs
    for name in programs:
        assert words(services(role)[name]["command"]) in guide, name


def test_a_program_with_another_option_would_be_found() -> None:
    command = words(services("bank")["supernode"]["command"])
    assert command in guide_commands("bank") and [*command, "--insecure"] not in guide_commands("bank")


@pytest.mark.parametrize("role", ROLES)
def test_a_container_has_no_rights_to_lose(role: str) -> None:
    for name, service in services(role).items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["user"].startswith("${SECAGG_UID:?")
        assert not {"privileged", "devices", "cap_add", "pid", "ipc"} & set(service), name
        assert not any("docker.sock" in volume for volume in service["volumes"]), name


@pytest.mark.parametrize("role", ROLES)
def test_only_the_gateway_of_the_aggregator_is_reached_from_outside(role: str) -> None:
    entrance = "gateway" if role == "aggregator" else "egress"
    published = {name: service["ports"] for name, service in services(role).items() if "ports" in service}
    assert published == ({"gateway": ["9443:9443"]} if role == "aggregator" else {})
    for name, service in services(role).items():
        assert service.get("network_mode") == (None if name == entrance else f"service:{entrance}"), name


@pytest.mark.parametrize("role", ["bank", "key-holder"])
def test_only_the_resident_writes_to_the_partys_folder(role: str) -> None:
    writes = [name for name, service in services(role).items() if "/etc/secagg:/etc/secagg" in service["volumes"]]
    assert writes == ["resident"]
    assert "SECAGG_PASSPHRASE" in services(role)["resident"]["environment"]  # as the shell has it, in no file


@pytest.mark.parametrize("role", ROLES)
def test_an_image_has_the_extras_that_the_guide_installs(role: str) -> None:
    (installed,) = re.findall(r"/opt/secagg/source\[([\w,]+)\]", (DEPLOY / f"{role}.md").read_text())
    for name in PARTIES[role]:
        assert services(role)[name]["build"]["args"] == {"EXTRAS": installed}
        context = (COMPOSE / services(role)[name]["build"]["context"]).resolve()
        assert (context, (context / services(role)[name]["build"]["dockerfile"])) == (ROOT, COMPOSE / "Dockerfile")


def test_the_image_copies_what_is_there_and_installs_exact_versions_as_nobody() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    assert all((ROOT / name).exists() for names in copied for name in names)
    assert {"secagg", "fl", "demos", "setup.cfg", "constraints.txt"} <= {name for names in copied for name in names}
    ignored = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
    seen = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored and seen == {name for names in copied for name in names}
    (default,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert set(default.split(",")) <= set(config["options.extras_require"])
    assert "pip install -c /opt/secagg/source/constraints.txt -e " in DOCKERFILE
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1] == "nobody"


# --- Docker's own tools ----------------------------------------------------------------------------------------------


def compose() -> list[str]:
    """`docker compose`, or the older program of its own."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    if (found := shutil.which("docker-compose")) is None:
        pytest.skip("no docker compose here: apt-get install -y docker-compose (.ci/run tries)")
    return [found]


@pytest.mark.long
@pytest.mark.parametrize("role", ROLES)
def test_compose_itself_accepts_the_file_and_wants_to_know_the_user(role: str) -> None:
    command = [*compose(), "-f", str(COMPOSE / f"{role}.yaml"), "config"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SECAGG_")}
    done = subprocess.run(
        command, env={**bare, "SECAGG_UID": "1000", "SECAGG_GID": "1000"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "user: 1000:1000" in done.stdout
    refused = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "id -u" in refused.stderr


@pytest.mark.long
def test_the_image_builds_where_there_is_docker() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker daemon runs here")
    command = [docker, "build", "-f", str(COMPOSE / "Dockerfile"), "--quiet", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
