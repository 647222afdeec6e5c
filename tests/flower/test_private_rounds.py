"""A private run over Flower's messages: the accounting and the model of a run in one process, and what banks refuse.

The nodes run in this process; tests/flower/test_network_private.py plays such a run with real ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flower_federation import only, silent_after_work
from flwr.app import Message
from private_federation import (
    MEMBERS,
    PATIENT,
    PrivateFederation,
    config_of,
    entries,
    planned,
    recorded,
)

from fl.counts.plan import Totals
from fl.counts.risk_columns import RiskColumns
from fl.counts.settings import key_slots
from fl.data.federation import federation_of, resolve_schema, without_rows
from fl.errors import BudgetError
from fl.flower.errors import BudgetSpent, ModelMismatch, ModelsDiverged, PartiesMissing, RoundFailed, SettingsError
from fl.flower.federation_plan import FEDERATION, make_plan, read_plan
from fl.flower.logs import RoleLog
from fl.flower.models import FlatModel
from fl.flower.private.bank import PrivateBank
from fl.flower.private.state import RunState
from fl.flower.settings import load_settings
from fl.flower.workflow import RoundsOutcome
from fl.learning.model import model_hash
from fl.privacy.mechanisms import LaplaceCounts, SharedSteps
from fl.rounds.algorithms.state import State
from fl.rounds.play import Rounds, trained_models
from fl.runs.risk import RiskOfParties
from fl.runs.scoring import load_model
from fl.secure.session import Aggregate, Joined

SHORT = replace(PATIENT, contribute_s=1.0)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., PrivateFederation]]:
    """Makes private federations, whose parties are closed at the end."""
    monkeypatch.setenv("SECAGG_LOG", str(tmp_path / "log.jsonl"))
    made: list[PrivateFederation] = []

    def federation(steps: int = 2, **options: object) -> PrivateFederation:
        made.append(PrivateFederation(tmp_path / f"federation-{len(made)}", *planned(config_of(steps, **options))))
        return made[-1]

    yield federation
    for each in made:
        each.close()


@dataclass
class Played:
    federation: PrivateFederation
    outcome: RoundsOutcome
    drafts: list[np.ndarray]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """One whole run: counts, two steps, and the comparison at each bank."""
    from fl.counts import drafts

    folder = tmp_path_factory.mktemp("private")
    kept: list[np.ndarray] = []
    original = drafts.contribution

    def contribution(*given, **more):  # type: ignore[no-untyped-def]
        kept.append(original(*given, **more))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECAGG_LOG", str(folder / "log.jsonl"))
        patch.setattr(drafts, "contribution", contribution)
        federation = PrivateFederation(folder / "federation", *planned(config_of(2)))
        with recorded(federation.drawn):
            outcome = federation.rounds().run(federation.course.rounds, evaluate=True)
        yield Played(federation, outcome, kept)
        federation.close()


# --- the same as in one process -------------------------------------------------------------------------------------


def test_the_model_is_that_of_one_process_with_the_same_integers(played: Played) -> None:
    here = played.federation
    plan, source = here.plan.at(here.source), here.source
    assert plan.sharing is not None and plan.config.statistics is not None and plan.joint_noise is not None
    salt = (here.parties.home(MEMBERS[0]) / "salt").read_bytes()
    totals = Totals(plan.sharing, np.sum(played.drafts, axis=0).reshape(plan.sharing.shape))
    released = (totals, key_slots(source, plan.config.statistics, salt))
    parties = RiskOfParties.of(source, federation_of(source).only(plan.own_names), released, plan.config.scale)
    steps = iter(np.array(here.drawn).reshape(2, len(MEMBERS), -1))

    def replayed(joined: Joined) -> Aggregate:
        average = plan.joint_noise.averaged(next(steps).sum(axis=0))  # type: ignore[union-attr]
        return Aggregate(average, 0.0, (0,) * len(MEMBERS), {}, 0, 0, 0.0, len(MEMBERS), entered=average)

    banks = [replace(bank, validation=bank.train) for bank in parties.released]  # its figures are not looked at here
    rounds = Rounds(banks, plan.schedule(2), plan.own_algorithm, replayed, 1.0, torch.device("cpu"), 3)
    said = {bank: told["model_hash"] for bank, told in played.outcome.reports.items()}
    assert said == dict.fromkeys(MEMBERS, model_hash(trained_models(rounds)[0]))


def test_every_ledger_holds_what_the_plan_of_one_process_costs(played: Played) -> None:
    here = played.federation
    plan = here.plan.at(here.source)
    assert plan.sharing is not None
    expected = [("LaplaceCounts", plan.sharing.entry, 0), *(("SharedSteps", plan.round_cost, n) for n in (1, 2))]
    for bank in MEMBERS:
        assert entries(here.ledger(bank)) == expected
        assert 2.9 < here.ledger(bank).reckoned().epsilon <= 3.0


def test_shares_of_noise_are_drawn_once_for_each_contribution(played: Played) -> None:
    assert len(played.drafts) == len(MEMBERS) and len(played.federation.drawn) == 2 * len(MEMBERS)


def test_a_bank_sends_a_hash_and_keeps_its_comparison(played: Played) -> None:
    assert all(set(said) == {"model_hash"} for said in played.outcome.reports.values())
    for bank in MEMBERS:
        path = played.federation.parties.home(bank) / "comparison.json"
        compared = json.loads(path.read_bytes())
        assert compared["bank"] == bank and path.stat().st_mode & 0o777 == 0o600
        assert set(compared) & {"figures", "not_measured"}


def test_the_folder_that_a_bank_scores_with_holds_the_released_model(played: Played) -> None:
    model = load_model(played.federation.parties.home(MEMBERS[1]) / "run")
    assert model_hash(model.module) == played.outcome.reports[MEMBERS[1]]["model_hash"]
    assert isinstance(model.shared, RiskColumns) and model.shared.risk is not None
    assert (played.federation.parties.home(MEMBERS[1]) / "run" / "statistics" / "salt").stat().st_mode & 0o777 == 0o600


def test_drafts_are_gone_when_all_counts_are_released(played: Played) -> None:
    for bank in MEMBERS:
        assert list((played.federation.parties.home(bank) / "statistics").glob("contribution-*")) == []


def test_noise_of_its_own_protects_a_bank_against_all_others(make) -> None:  # type: ignore[no-untyped-def]
    here = make(1, noise="own", no_shared_statistics=True)
    here.rounds().run(here.course.rounds)
    (spend,) = here.ledger(MEMBERS[0]).spends()
    assert isinstance(spend.mechanism, SharedSteps) and here.plan.config.privacy.colluders == len(MEMBERS) - 1
    assert spend.mechanism == here.plan.at(here.source).round_cost


# --- what is lost is paid -------------------------------------------------------------------------------------------


def test_counts_of_a_lost_round_go_to_the_same_members_again_and_are_paid_once(make) -> None:  # type: ignore[no-untyped-def]
    here, killed = make(1), MEMBERS[1]
    seen: list[bytes] = []

    def dies(message: Message, deliver):  # type: ignore[no-untyped-def]
        deliver(message)
        seen.append(next((here.parties.home(killed) / "statistics").glob("contribution-*")).read_bytes())
        here.restart(killed)

    here.nodes[killed].fault = only("contribute", dies, times=1)
    outcome = here.rounds(SHORT).run(1)
    assert len(outcome.rounds[0].lost) == 1
    assert next((here.parties.home(killed) / "statistics").glob("contribution-*")).read_bytes() == seen[0]
    for bank in MEMBERS:
        assert [type(spend.mechanism) for spend in here.ledger(bank).spends()] == [LaplaceCounts]


def test_a_bank_whose_paid_draft_is_gone_draws_no_other_by_the_same_plan(make) -> None:  # type: ignore[no-untyped-def]
    here, killed = make(1, epsilon=8.0, statistics_share=0.4), MEMBERS[1]  # there is room for another draft

    def loses_its_disk(message: Message, deliver):  # type: ignore[no-untyped-def]
        deliver(message)
        next((here.parties.home(killed) / "statistics").glob("contribution-*")).unlink()
        here.restart(killed)

    here.nodes[killed].fault = only("contribute", loses_its_disk, times=1)
    with pytest.raises(RoundFailed, match=r"DraftLost.*make a plan with another name"):
        here.rounds(replace(SHORT, attempts=2)).run(1)
    assert [len(here.ledger(bank, 8.0).spends()) for bank in MEMBERS] == [1, 1, 1]


def test_a_lost_step_is_paid_and_the_run_ends_that_much_earlier(make) -> None:  # type: ignore[no-untyped-def]
    here = make(2, no_shared_statistics=True)
    here.nodes[MEMBERS[1]].fault = only("contribute", silent_after_work, times=1)
    with recorded(here.drawn):
        outcome = here.rounds(SHORT).run(here.course.rounds)
    assert [each.number for each in outcome.rounds] == [1] and "can pay for no more" in outcome.ended
    assert len(here.drawn) == 2 * len(MEMBERS)
    first, again = here.drawn[: len(MEMBERS)], here.drawn[len(MEMBERS) :]
    assert all((one != other).any() for one, other in zip(first, again, strict=True))
    for bank in MEMBERS:
        assert [(kind, number) for kind, _, number in entries(here.ledger(bank))] == [("SharedSteps", 1)] * 2


def test_a_bank_whose_ledger_is_an_older_copy_takes_no_step(make) -> None:  # type: ignore[no-untyped-def]
    here = make(3, no_shared_statistics=True)
    here.rounds().run(1)
    shutil.rmtree(here.parties.home(MEMBERS[0]) / "budget")
    here.restart(MEMBERS[0])
    with pytest.raises(RoundFailed, match="LedgerError"):
        here.rounds(replace(SHORT, attempts=1)).run(2)


def test_a_bank_that_has_spent_its_budget_elsewhere_takes_no_part(make) -> None:  # type: ignore[no-untyped-def]
    here = make(1, no_shared_statistics=True)
    here.ledger(MEMBERS[2]).spend(here.plan.at(here.source).round_cost, run="another run", round_number=1)
    with pytest.raises(BudgetSpent, match="bank-2 can pay for no more"):
        here.rounds(replace(SHORT, attempts=1)).run(1)
    assert [len(here.ledger(bank).spends()) for bank in MEMBERS] == [0, 0, 1]


# --- a stranger's configuration -------------------------------------------------------------------------------------


def test_a_bank_with_another_plan_is_in_no_round_and_nobody_pays(make) -> None:  # type: ignore[no-untyped-def]
    here, other = make(2, no_shared_statistics=True), make(2, no_shared_statistics=True, epsilon=2.0)
    other.plan.write(here.parties.home(MEMBERS[1]))
    with pytest.raises((PartiesMissing, ModelsDiverged), match="model"):
        here.rounds(SHORT).run(1)
    assert all(here.ledger(bank).spends() == [] for bank in MEMBERS)


def test_a_bank_with_another_salt_is_in_no_round_and_nobody_pays(make) -> None:  # type: ignore[no-untyped-def]
    here = make(1)
    (here.parties.home(MEMBERS[1]) / "salt").write_bytes(bytes(32))
    with pytest.raises((PartiesMissing, ModelsDiverged), match="model"):
        here.rounds(SHORT).run(1)
    assert all(here.ledger(bank).spends() == [] for bank in MEMBERS)


def test_a_bank_draws_nothing_for_other_members_than_the_plans(make) -> None:  # type: ignore[no-untyped-def]
    here = make(1, no_shared_statistics=True)
    bank = PrivateBank(load_settings(here.file(MEMBERS[0])), RoleLog("bank", MEMBERS[0]))
    draw = bank.train(bank.initial(), 1, 0).draw
    assert draw is not None
    for roster in (MEMBERS[:2], (*MEMBERS, "bank-3"), (*MEMBERS[:2], "bank-3")):
        with pytest.raises(SettingsError, match="noise is for bank-0, bank-1, bank-2"):
            draw(roster)
    assert here.ledger(MEMBERS[0]).spends() == []


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("quorum = 3", "quorum = 2", "expected quorum = 3"),
        ("value_bits = 29", "value_bits = 28", r"\[plan\]: a private run by this plan needs"),
        ('bank = "bank-0"', 'bank = "bank-7"', "no member of the plan"),
        ('salt = "salt"', 'salt = "salt"\nnoise = "none"', "app.noise: a private run knows"),
        ('federation = "federation.toml"', "federation = 3", "app.federation: expected a text"),
        ('data = "simulated"', 'data = ""', "app.data: expected a text"),
        ("[app]", '[robust]\nrule = "outliers"\n\n[app]', "no rule can leave one out"),
    ],
)
def test_a_party_file_that_does_not_fit_the_plan_is_refused(make, before, after, message) -> None:  # type: ignore[no-untyped-def]
    here = make(1, no_shared_statistics=True)
    file = here.file(MEMBERS[0])
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    with pytest.raises(SettingsError, match=message):
        PrivateBank(load_settings(file), RoleLog("bank", MEMBERS[0]))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('format = "fl federation 1"', 'format = "fl federation 2"', "expected 'fl federation 1'"),
        ('"bank-0", "bank-1"', '"bank-0", "bank-0"', "each once"),
        ("first_day =", "first_days =", "first_day"),
        ("epsilon = 3.0", "epsilon = -3.0", "epsilon"),
        ("colluders = 1", "colluders = 1\nbudget_dir = '/tmp'", "neither budget_dir"),
        ('registers = ["terminal"]', 'registers = ["../terminal"]', "expected kinds of parties"),
        ('kind = "noisy-or"', 'kind = "noisy"', "kind"),
        ("[federation]", '[robust]\nrule = "outliers"\n\n[federation]', "outliers judges each bank by its own update"),
    ],
)
def test_a_plan_is_read_as_if_a_stranger_wrote_it(make, tmp_path, before, after, message) -> None:  # type: ignore[no-untyped-def]
    here = make(1)
    path = here.plan.write(tmp_path / "plan")
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises((SettingsError, BudgetError), match=message):
        read_plan(path)


def test_a_plan_reads_back_as_itself_and_any_change_is_another_fingerprint(make, tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = make(1).plan
    assert read_plan(plan.write(tmp_path / "plan")) == plan
    privacy = plan.config.privacy
    assert privacy is not None
    others = [
        replace(plan, members=tuple(reversed(plan.members))),
        replace(plan, config=replace(plan.config, rounds=plan.config.rounds + 1)),
        replace(plan, config=replace(plan.config, privacy=replace(privacy, share_variance=privacy.share_variance / 2))),
        replace(plan, agreed=replace(plan.agreed, first_day=plan.agreed.first_day + 1)),
        replace(plan, agreed=replace(plan.agreed, registers={"terminal": plan.agreed.registers["terminal"][1:]})),
        replace(plan, schema_sha256="0" * 64),
        replace(plan, name="another"),
    ]
    assert len({each.fingerprint for each in (plan, *others)}) == len(others) + 1


def test_a_plan_whose_noise_was_weakened_finds_no_room_in_the_ledger(make) -> None:  # type: ignore[no-untyped-def]
    here = make(1, no_shared_statistics=True)
    privacy = here.plan.config.privacy
    weaker = replace(
        here.plan, config=replace(here.plan.config, privacy=replace(privacy, share_variance=privacy.share_variance / 4))
    )
    weaker.write(here.parties.home(MEMBERS[0]))
    bank = PrivateBank(load_settings(here.file(MEMBERS[0])), RoleLog("bank", MEMBERS[0]))
    with pytest.raises(BudgetError, match="no room"):
        bank.train(bank.initial(), 1, 0)


@pytest.mark.parametrize(("mode", "content", "message"), [(0o644, bytes(32), "mode 600"), (0o600, b"short", "got 5")])
def test_a_salt_that_others_read_or_of_another_length_is_refused(make, mode, content, message) -> None:  # type: ignore[no-untyped-def]
    here = make(1)
    path = here.parties.home(MEMBERS[0]) / "salt"
    path.write_bytes(content)
    path.chmod(mode)
    bank = PrivateBank(load_settings(here.file(MEMBERS[0])), RoleLog("bank", MEMBERS[0]))
    with pytest.raises(SettingsError, match=message):
        bank.initial()


# --- the state ------------------------------------------------------------------------------------------------------


def test_a_state_reads_back_as_itself_and_not_under_another_plan() -> None:
    rng = np.random.default_rng(3)
    memory = {"velocity": rng.normal(size=4), "iterates": np.zeros((0, 4), np.float32), "iterate": np.ones(4, "<f4")}
    state = RunState(bytes(range(32)), np.array([5, -3]), 2, State(np.arange(4, dtype=np.float32), memory), 4)
    flat, _, _ = FlatModel.from_bytes(state.flat().to_bytes(3, 9))
    assert flat.digest == state.flat().digest and flat.length == 4
    read = RunState.of(flat, bytes(range(32)))
    assert (read.counts.tolist(), read.steps, read.length) == ([5, -3], 2, 4) and read.training is not None
    assert read.training.model.tolist() == [0, 1, 2, 3]
    for name, array in memory.items():
        assert read.training.memory[name].dtype == array.dtype
        assert np.array_equal(read.training.memory[name], array)
    with pytest.raises(ModelMismatch, match="not of the plan"):
        RunState.of(flat, bytes(32))
    with pytest.raises(ModelMismatch, match="not of the plan"):
        RunState.of(FlatModel({"weights": np.zeros(3, np.float32)}), bytes(32))


def test_the_plan_of_banks_without_rows_is_that_of_all_rows() -> None:
    source, plan = planned(config_of(2))
    schema = resolve_schema("simulated", None)
    blind = make_plan(config_of(2), without_rows(schema, MEMBERS, plan.config.seed, plan.agreed))
    assert blind == plan and blind.at(source).sharing == plan.at(source).sharing


def test_the_plan_file_is_called_as_the_party_file_says(make) -> None:  # type: ignore[no-untyped-def]
    here = make(1, no_shared_statistics=True)
    assert (here.parties.home(MEMBERS[0]) / FEDERATION).exists()
