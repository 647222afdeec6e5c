"""Party files: what a party decides for itself, and that nothing of it can come from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fl.flower.errors import SettingsError
from fl.flower.settings import Reports, load_settings, party_file

GOOD = """
role = "bank"
identity = "identity.json"
enrolment = "enrolment.json"
quorum = 3
[plan]
max_clients = 8
clip = 2
[app]
data = "simulated"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "party.toml"
    path.write_text(text)
    return path


def test_a_party_file_says_everything_and_defaults_are_careful(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, GOOD))
    assert (settings.role, settings.quorum, settings.folder) == ("bank", 3, tmp_path)
    assert settings.plan.clip == 2.0 and settings.plan.max_weight == 1 and settings.allow_reuse is False
    assert settings.model_repeats == 0
    assert settings.identity == tmp_path / "identity.json" and settings.app == {"data": "simulated"}
    assert settings.reports == Reports(frozenset(), frozenset(), frozenset())


def test_a_bank_names_what_its_app_may_report(tmp_path: Path) -> None:
    table = '[reports]\nmessages = ["evaluate", "query.health"]\nmetrics = ["loss"]\nhashes = ["model_hash"]\n[app]'
    reports = load_settings(written(tmp_path, GOOD.replace("[app]", table))).reports
    assert reports == Reports(frozenset({"evaluate", "query.health"}), frozenset({"loss"}), frozenset({"model_hash"}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (('role = "bank"', 'role = "banker"'), "role: expected one of bank, key_holder, aggregator"),
        (("quorum = 3", "quorum = true"), "quorum: expected a whole number from 2 .*, got True"),
        (("quorum = 3", ""), "quorum: expected a whole number .*, got nothing"),
        (("max_clients = 8", 'max_clients = "8"'), r"\[plan\] max_clients: expected a whole number"),
        (("clip = 2", "clips = 2"), r"\[plan\] clips: unknown key; did you mean 'clip'"),
        (("quorum = 3", "quorum = 3\nmasking = false"), "masking: unknown key"),
        (("quorum = 3", "quorum = 3\nallow_reuse = 1"), "allow_reuse: expected true or false"),
        (
            ("quorum = 3", "quorum = 3\nmodel_repeats = -1"),
            "model_repeats: expected a whole number .*, or 'fresh-noise'",
        ),
        (("quorum = 3", "quorum = 3\nmodel_repeats = true"), "model_repeats: expected a whole number from 0"),
        (("quorum = 3", 'quorum = 3\nmodel_repeats = "any"'), "model_repeats: expected a whole number from 0"),
        (("[plan]", "[plan"), "not valid TOML"),
        (("[app]", "[reports]\nmessages = 'evaluate'\n[app]"), r"\[reports\] messages: expected a list of strings"),
        (("[app]", "[reports]\nmetrics = [1]\n[app]"), r"\[reports\] metrics: expected a list of strings"),
        (("[app]", "[reports]\nmetrics = ['']\n[app]"), r"\[reports\] metrics: expected a list of names"),
        (("[app]", "[reports]\narrays = ['model']\n[app]"), r"\[reports\] arrays: unknown key"),
        (("[app]", "[reports]\nmetrics = ['error']\n[app]"), "'error' is reserved for the protocol"),
        (("[app]", "[reports]\nmetrics = ['a']\nhashes = ['a']\n[app]"), "'a' is in metrics and in hashes"),
        *(
            (("[app]", f"[reports]\nmessages = ['{kind}']\n[app]"), "reports.messages: expected 'evaluate'")
            for kind in ("train", "train.own", "system", "get_parameters", "reconnect", "query.", "evaluate.a.b", "*")
        ),
        (("quorum = 3", "quorum = 3\nreports = 1"), "reports: expected a table"),
    ],
)
def test_what_is_wrong_in_a_party_file_is_named(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(written(tmp_path, GOOD.replace(*change)))


def test_only_a_bank_reports(tmp_path: Path) -> None:
    other = GOOD.replace('"bank"', '"key_holder"').replace("[app]", "[reports]\nmetrics = ['loss']\n[app]")
    with pytest.raises(SettingsError, match="reports: expected only in a bank's file, got it in the key_holder's"):
        load_settings(written(tmp_path, other))


def test_a_missing_party_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="make a party file first"):
        load_settings(tmp_path / "party.toml")


def test_the_party_file_is_never_named_by_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECAGG_PARTY", "SECAGG_PARTIES"):
        monkeypatch.delenv(name, raising=False)

    def context(node_config: dict[str, str | int]) -> Context:
        return Context(1, 2, node_config, RecordDict(), {"party": "/from/the/superlink/party.toml"})  # type: ignore[arg-type]

    assert party_file(context({"party": "/own/party.toml"})) == Path("/own/party.toml")
    with pytest.raises(SettingsError, match="no party file"):
        party_file(context({}))
    with pytest.raises(SettingsError, match="no party file"):
        party_file(context({"partition-id": 3}))
    monkeypatch.setenv("SECAGG_PARTIES", "/simulation")
    assert party_file(context({"partition-id": 3})) == Path("/simulation/party-3/party.toml")
    monkeypatch.setenv("SECAGG_PARTY", "/own/other.toml")
    assert party_file(context({"party": "/own/party.toml"})) == Path("/own/other.toml")
