"""A small federation with descriptions, and a provider on a local server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from pytest_httpserver import HTTPServer

from fl.assist.account import Account, SpendingLimits
from fl.assist.cache import Cache
from fl.assist.descriptions import Described, read_described
from fl.assist.gateway import Gateway
from fl.assist.openai_provider import OpenAIProvider
from fl.assist.redact import Redactor
from fl.assist.release import Policy
from fl.data.schema import Schema
from fl.data.schema_file import load_schema
from fl.data.simulate import Simulation
from tests.assist.model_server import ModelServer, TricklingServer, traits_of

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

SMALL = Simulation(customers=150, terminals=75, banks=3, fraud_share=0.05)
COMMON = "rent groceries weekly shop diesel urgent release of parcel invoice thanks for the lunch customs fee today"


@pytest.fixture(scope="session")
def described() -> Described:
    """Three banks, about 7,700 transactions each, with descriptions."""
    return read_described("simulated", simulation=SMALL)


@pytest.fixture(scope="session")
def schema() -> Schema:
    return load_schema("simulated")


@pytest.fixture(scope="session")
def redactor() -> Redactor:
    """A bank whose customers use the words of `COMMON`."""
    names = ["Maria González", "Bay"]
    return Redactor.of_bank([COMMON] * 10, np.arange(10), names=names, identifiers=["C00012", "T00001"])


@pytest.fixture
def server(httpserver: HTTPServer) -> ModelServer:
    return ModelServer(httpserver, traits_of)


@pytest.fixture
def gateway_to(
    server: ModelServer, schema: Schema, redactor: Redactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Gateway]:
    """Makes a gateway to the local server as a new process would: everything lasting comes from `tmp_path`."""
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)

    def make(
        *, allow: tuple[str, ...] = ("DESCRIPTION",), limits: SpendingLimits | None = None, **options: Any
    ) -> Gateway:
        account = Account(tmp_path / "gateway.jsonl", limits or SpendingLimits(tokens=10**9))
        provider = OpenAIProvider("a-model", account, **{"max_retries": 2, "timeout_s": 10.0, **options})
        return Gateway(provider, Policy.of(schema, allow), redactor, Cache(tmp_path / "cache"))

    return make


@pytest.fixture
def trickling() -> Iterator[Callable[[str], str]]:
    """Starts a server whose "head" or "body" trickles; returns its address."""
    servers: list[TricklingServer] = []

    def start(slow: str) -> str:
        servers.append(TricklingServer(slow, traits_of))
        return servers[-1].url

    yield start
    for server in servers:
        server.close()
