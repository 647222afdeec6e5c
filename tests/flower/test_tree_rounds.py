"""Trees over Flower's messages: the trees of one process, kills in the middle of a tree, and what banks refuse.

The nodes run in this process; tests/flower/test_network_trees.py plays such a run with real ones.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import claims
import numpy as np
import pytest
from flower_federation import only, silent_after_work
from flwr.app import Message
from tree_federation import MEMBERS, PATIENT, SMALL, TreeFederation, config_of, planned

from fl.data.federation import resolve_schema
from fl.flower.errors import (
    ModelMismatch,
    ModelsDiverged,
    PartiesMissing,
    PartnersDiffer,
    RoundFailed,
    SettingsError,
    TreesGrown,
    TreeSumRefused,
)
from fl.flower.federation_plan import make_plan, read_plan
from fl.flower.local_data import prepare
from fl.flower.local_parties import KEY_HOLDER
from fl.flower.logs import RoleLog
from fl.flower.models import FlatModel
from fl.flower.parties.bank import Released
from fl.flower.private.bank import PrivateBank
from fl.flower.settings import load_settings
from fl.flower.trees.bank import TreeBank
from fl.flower.trees.local import in_one_process
from fl.flower.trees.partners import FILE, Partners
from fl.flower.trees.plan import OF_TREES, main
from fl.flower.trees.plan import planned as planned_without_rows
from fl.flower.trees.state import flat_of, kept_of
from fl.flower.workflow import RoundsOutcome
from fl.learning.model import model_hash
from fl.runs.asked import configuration
from fl.runs.plan import read_source
from fl.runs.scoring import load_model
from fl.secure.cost import cost_of_integers
from fl.trees.member import Member
from fl.trees.packing import packed_length, unpack
from fl.trees.progress_file import Kept
from fl.trees.training import cut_for
from secagg.journal import audit_journal

SHORT = replace(PATIENT, call_s=0.5, train_s=0.5, contribute_s=0.5)
SUMS = 1 + SMALL["trees"] * SMALL["depth"]
Make = Callable[..., TreeFederation]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes federations of trees, whose parties are closed at the end."""
    monkeypatch.setenv("SECAGG_LOG", str(tmp_path / "log.jsonl"))
    made: list[TreeFederation] = []

    def federation(extra: dict[str, object] | None = None, **options: object) -> TreeFederation:
        folder = tmp_path / f"federation-{len(made)}"
        made.append(TreeFederation(folder, *planned(config_of(**options)), extra or {}))
        return made[-1]

    yield federation
    for each in made:
        each.close()


@dataclass
class Played:
    federation: TreeFederation
    outcome: RoundsOutcome


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """One whole run: the opening, two trees, and the comparison at each bank."""
    folder = tmp_path_factory.mktemp("trees")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECAGG_LOG", str(folder / "log.jsonl"))
        federation = TreeFederation(folder / "federation", *planned(config_of()))
        outcome = federation.rounds().run(federation.course.most_sums, evaluate=True)
        yield Played(federation, outcome)
        federation.close()


def bank_of(here: TreeFederation, name: str = MEMBERS[0]) -> TreeBank:
    return TreeBank(load_settings(here.file(name)), RoleLog("bank", name))


def grown_by(outcome: RoundsOutcome) -> dict[str, object]:
    """By bank: the hash of its trees."""
    return {bank: told.get("model_hash") for bank, told in outcome.reports.items()}


def as_in_one_process(here: TreeFederation) -> dict[str, object]:
    return dict.fromkeys(here.plan.members, in_one_process(here.course, here.source).model_hash)


# --- the same as in one process -------------------------------------------------------------------------------------


def test_the_trees_are_those_of_one_process_bit_for_bit(played: Played) -> None:
    here = played.federation
    assert grown_by(played.outcome) == as_in_one_process(here)
    assert [each.number for each in played.outcome.rounds] == list(range(1, SUMS + 1)) and not played.outcome.ended
    splits = [node.split for tree in here.progress(MEMBERS[0]).trees for node in tree.nodes if node.split]
    assert len(splits) > SMALL["trees"]  # trees that split nothing would be equal for nothing


def test_other_rows_at_one_bank_give_other_trees(played: Played) -> None:
    """The control: the hash tells trees apart."""
    here = played.federation
    ((name, rows, held), *others) = here.source.banks
    fewer = replace(here.source, banks=((name, rows, replace(held, train=held.train[1:])), *others))
    assert in_one_process(here.course, fewer).model_hash != in_one_process(here.course, here.source).model_hash


def test_every_sum_is_over_all_members_of_the_plan(played: Played) -> None:
    assert all(sorted(each.members) == sorted(MEMBERS) for each in played.outcome.rounds)
    for bank in MEMBERS:
        content = json.loads((played.federation.parties.home(bank) / FILE).read_bytes())
        assert [sorted(each) for each in content["members"]] == [sorted(MEMBERS)]
        assert (played.federation.parties.home(bank) / FILE).stat().st_mode & 0o777 == 0o600


def test_a_bank_sends_a_hash_and_keeps_its_comparison(played: Played) -> None:
    assert all(set(said) == {"model_hash"} for said in played.outcome.reports.values())
    for bank in MEMBERS:
        path = played.federation.parties.home(bank) / "comparison.json"
        compared = json.loads(path.read_bytes())
        assert compared["bank"] == bank and path.stat().st_mode & 0o777 == 0o600
        assert set(compared) & {"figures", "not_measured"}


def test_the_folder_that_a_bank_scores_with_holds_the_trees(played: Played) -> None:
    model = load_model(played.federation.parties.home(MEMBERS[1]) / "run")
    assert model_hash(model.module) == played.outcome.reports[MEMBERS[1]]["model_hash"]


def test_no_sum_is_larger_than_the_plan_of_rounds_says(played: Played) -> None:
    course = played.federation.course
    kept = Kept.of(course.terms)
    lengths = [flat_of(kept, course.cut).length]
    assert lengths == [course.opening] and max(lengths) <= course.settings.max_length
    rows = played.federation.progress(MEMBERS[0]).counted
    assert rows is not None and 0 < course.longest_level(rows.rows) <= course.settings.max_length


def test_a_finished_run_plays_no_round_and_says_so(played: Played) -> None:
    outcome = played.federation.rounds().run(SUMS + 5, evaluate=True)
    assert outcome.rounds == () and f"no round follows round {SUMS}" in outcome.ended
    assert grown_by(outcome) == grown_by(played.outcome)


def test_sampling_weights_and_trees_that_end_early_are_those_of_one_process(make: Make) -> None:
    drawn = {"patience": 2, "row_share": 0.7, "column_share": 0.7, "class_weight": 4}
    here = make(trees=4, depth=3, least_rows=250, **drawn)  # of some 900 rows
    outcome = here.rounds().run(here.course.most_sums, evaluate=True)
    assert grown_by(outcome) == as_in_one_process(here)
    assert len(outcome.rounds) == here.progress(MEMBERS[0]).step < here.course.most_sums
    assert "what the banks compute is finished" in outcome.ended


def test_categories_and_missing_values_of_a_file_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bank reads its own rows by the plan's schema, which names days and words."""
    monkeypatch.setenv("SECAGG_LOG", str(tmp_path / "log.jsonl"))
    data, schema = claims.write(tmp_path)
    made = prepare(tmp_path / "data", Path(data), str(schema), calendar=True)
    asked = {**made.common, **OF_TREES, "trees": 2, "depth": 3}
    plan = make_plan(configuration(asked), made.source)
    tables = {name: {key: table[key] for key in ("data", "schema", "partition")} for name, table in made.tables.items()}
    here = TreeFederation(tmp_path / "federation", made.source, plan, tables=tables)
    try:
        outcome = here.rounds().run(here.course.most_sums, evaluate=True)
        assert grown_by(outcome) == as_in_one_process(here) and set(here.plan.members) == {"a", "b", "c"}
        assert [column.categories for column in here.course.terms.columns] == [0, 0, 5]
        nodes = [node for tree in here.progress("a").trees for node in tree.nodes]
        assert any(node.split is not None and node.split.right for node in nodes), "no split by categories was tested"
        assert all("figures" in json.loads((here.parties.home(b) / "comparison.json").read_bytes()) for b in "abc")
    finally:
        here.close()


# --- equal contributions --------------------------------------------------------------------------------------------


def test_a_contribution_that_equals_an_earlier_one_enters_its_sum_and_nobody_is_warned(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees whose steps round to nothing: all roots have the same histograms, at every bank."""
    here = make(trees=3, depth=1, learning_rate=1e-9)
    entered: dict[int, list[bytes]] = {}
    original = Member.contribution

    def contribution(member, progress):  # type: ignore[no-untyped-def]
        own = original(member, progress)
        entered.setdefault(progress.step, []).append(own.tobytes())
        return own

    monkeypatch.setattr(Member, "contribution", contribution)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = here.rounds().run(here.course.most_sums, evaluate=True)
    assert [each.lost for each in outcome.rounds] == [()] * 4
    assert sorted(entered[1]) == sorted(entered[2]) == sorted(entered[3]) and len(set(entered[1])) == len(MEMBERS)
    assert grown_by(outcome) == as_in_one_process(here)


def test_without_the_banks_own_check_of_members_the_journal_would_refuse_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what lets equal contributions pass is that the app answers for the members."""
    here = make(trees=3, depth=1, learning_rate=1e-9)
    original = TreeBank.train
    monkeypatch.setattr(TreeBank, "train", lambda *given: replace(original(*given), repeats=False))
    with pytest.raises(RoundFailed, match=r"round 3.*UpdateReused"):
        here.rounds(replace(SHORT, attempts=1)).run(here.course.most_sums)


# --- kills and losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["join", "contribute", "accept"])
def test_a_bank_that_dies_in_the_middle_of_a_tree_grows_the_same_trees(make: Make, action: str) -> None:
    here, killed, done = make(), MEMBERS[1], Counter[str]()

    def dies(message: Message, deliver):  # type: ignore[no-untyped-def]
        done[action] += 1
        answer = deliver(message)
        if done[action] == 3:  # the opening, the first root, and now the second level of the first tree
            here.restart(killed)
            return None
        return answer

    here.nodes[killed].fault = only(action, dies)
    outcome = here.rounds(SHORT).run(here.course.most_sums, evaluate=True)
    assert done[action] > 3 and grown_by(outcome) == as_in_one_process(here)
    assert [each.number for each in outcome.rounds] == list(range(1, SUMS + 1))


def test_a_run_whose_parties_all_die_between_two_sums_goes_on_where_it_ended(make: Make) -> None:
    here = make()
    first = here.rounds().run(3)
    assert here.progress(MEMBERS[0]).step == 3 and here.progress(MEMBERS[0]).growing is not None
    for name in (KEY_HOLDER, *MEMBERS):
        here.restart(name)
    rest = here.rounds().run(here.course.most_sums, evaluate=True)
    assert [each.number for each in (*first.rounds, *rest.rounds)] == list(range(1, SUMS + 1))
    assert grown_by(rest) == as_in_one_process(here)


def test_a_lost_sum_is_made_again_of_the_same_integers_among_the_same_members(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make()
    entered: dict[int, set[bytes]] = {}
    original = Member.contribution

    def contribution(member, progress):  # type: ignore[no-untyped-def]
        own = original(member, progress)
        entered.setdefault(progress.step, set()).add(own.tobytes())
        return own

    monkeypatch.setattr(Member, "contribution", contribution)
    here.nodes[MEMBERS[1]].fault = only("contribute", silent_after_work, times=2)
    outcome = here.rounds(SHORT).run(here.course.most_sums, evaluate=True)
    assert [len(each.lost) for each in outcome.rounds] == [2, *[0] * (SUMS - 1)]
    assert all(len(each) <= len(MEMBERS) for each in entered.values())
    assert grown_by(outcome) == as_in_one_process(here)
    here.close()
    for bank in MEMBERS:
        rounds = audit_journal(here.parties.home(bank) / "journal.db").rounds
        assert [each.aborted for each in rounds] == [True, True, *[False] * SUMS]


def test_a_bank_that_missed_a_release_follows_it_before_the_next_sum(make: Make) -> None:
    here = make()
    here.nodes[MEMBERS[2]].fault = only("accept", lambda message, deliver: None, times=1)
    outcome = here.rounds(replace(PATIENT, call_s=0.5)).run(here.course.most_sums, evaluate=True)
    assert grown_by(outcome) == as_in_one_process(here)


# --- what a bank refuses --------------------------------------------------------------------------------------------


def test_a_bank_enters_no_roster_of_others_than_the_plans_members(make: Make) -> None:
    here = make()
    bank = bank_of(here)
    entered = bank.train(bank.initial(), 1, 0).draw
    assert entered is not None
    for roster in (MEMBERS[:2], (*MEMBERS, "bank-3"), (*MEMBERS[:2], "bank-3")):
        with pytest.raises(SettingsError, match="sums of trees are for bank-0, bank-1, bank-2"):
            entered(roster)
    assert not (here.parties.home(MEMBERS[0]) / FILE).exists()
    entered(MEMBERS)
    assert (here.parties.home(MEMBERS[0]) / FILE).exists()


KEYS = {"bank-0": "0" * 64, "bank-1": "1" * 64, "bank-2": "2" * 64}


@pytest.mark.parametrize(
    ("others", "difference"),
    [
        ({**KEYS, "bank-3": "3" * 64}, "with bank-3"),
        ({name: key for name, key in KEYS.items() if name != "bank-2"}, "without bank-2"),
        ({**KEYS, "bank-2": "f" * 64}, "with another key of bank-2"),
    ],
)
def test_a_bank_that_grew_trees_among_some_banks_grows_none_among_others(
    tmp_path: Path, others: dict[str, str], difference: str
) -> None:
    partners = Partners(tmp_path, changed=False)
    partners.note(KEYS)
    partners.note(dict(reversed(KEYS.items())))  # the order does not count
    for refused in (partners.require, partners.note):
        with pytest.raises(PartnersDiffer, match=f"{difference}: sums of trees have no noise"):
            refused(others)
    Partners(tmp_path, changed=True).note(others)
    with pytest.raises(PartnersDiffer):
        Partners(tmp_path, changed=False).require(KEYS)  # there is no way back without the operator's consent


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "fl trees partners 2"}', '{"format": "fl trees partners 1"}']
)
def test_a_record_of_partners_that_is_damaged_lets_nothing_out(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(SettingsError, match="expected the record of earlier trees"):
        Partners(tmp_path, changed=False).require(KEYS)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to(tmp_path / "absent")
    with pytest.raises(SettingsError, match="expected the record of earlier trees"):
        Partners(tmp_path, changed=False).require(KEYS)


def test_other_partners_are_refused_before_the_bank_joins_anything(make: Make) -> None:
    here = make()
    Partners(here.parties.home(MEMBERS[1]), changed=False).note(KEYS)
    with pytest.raises(RoundFailed, match=r"bank-1: PartnersDiffer: .*with another key of bank-0, bank-1, bank-2"):
        here.rounds(replace(SHORT, attempts=1)).run(1)
    here.close()
    assert audit_journal(here.parties.home(MEMBERS[1]) / "journal.db").rounds == ()


def test_a_bank_whose_operator_accepts_other_partners_takes_part(make: Make) -> None:
    here = make({"changed_members": True})
    Partners(here.parties.home(MEMBERS[1]), changed=False).note(KEYS)
    assert len(here.rounds().run(1).rounds) == 1


def test_a_bank_with_another_plan_is_in_no_sum(make: Make) -> None:
    here, other = make(), make(bins=9)
    other.plan.write(here.parties.home(MEMBERS[1]))
    with pytest.raises((PartiesMissing, ModelsDiverged)):
        here.rounds(SHORT).run(1)
    for bank in (MEMBERS[0], MEMBERS[2]):
        assert not (here.parties.home(bank) / FILE).exists()


def test_a_sum_that_no_rows_have_moves_nobody_and_is_refused_by_name(make: Make) -> None:
    """One bank's histogram names more rows at one column than at another."""
    here, wrong = make(), MEMBERS[2]
    original = TreeBank.train

    def train(bank: TreeBank, *given):  # type: ignore[no-untyped-def]
        trained = original(bank, *given)
        if bank.bank != wrong or given[1] != 2:
            return trained
        draw = trained.draw
        assert draw is not None
        return replace(trained, draw=lambda roster: draw(roster) + (np.arange(len(draw(roster))) == 0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TreeBank, "train", train)
        with pytest.raises(ModelsDiverged, match=r"round 2 ended.*bank-0: TreeSumRefused: sum 2.*sent wrong ones"):
            here.rounds(replace(SHORT, attempts=1)).run(here.course.most_sums)
    assert [here.progress(bank).step for bank in MEMBERS] == [1, 1, 1]


def test_a_sum_over_fewer_banks_than_the_plan_has_is_refused(make: Make) -> None:
    here = make()
    bank = bank_of(here)
    model = bank.initial()
    released = Released(np.zeros(model.length), np.zeros(model.length, np.int64), 2, 2)
    with pytest.raises(TreeSumRefused, match="over 3 banks, got 2"):
        bank.moved(model, released)


def test_a_finished_training_gives_no_update(played: Played) -> None:
    here = played.federation
    bank = bank_of(here, MEMBERS[2])
    model, _, _ = FlatModel.from_bytes((here.parties.home(MEMBERS[2]) / "model.npz").read_bytes())
    assert bank.finished(model) and not bank.finished(bank.initial())
    with pytest.raises(TreesGrown, match="a new run needs a new plan"):
        bank.train(model, SUMS + 1, 0)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("quorum = 3", "quorum = 2", "expected quorum = 3"),
        ("value_bits = 40", "value_bits = 39", r"\[plan\]: a run of trees by this plan needs"),
        ('bank = "bank-0"', 'bank = "bank-7"', "no member of the plan"),
        ("[app]", '[app]\nsalt = "salt"', "app.salt: a run of trees knows"),
        ("[app]", "[app]\nchanged_members = 1", "app.changed_members: expected true or false, got 1"),
        ('federation = "federation.toml"', "federation = 3", "app.federation: expected a text"),
        ("[app]", '[robust]\nrule = "outliers"\n\n[app]', "no rule can leave one out"),
    ],
)
def test_a_party_file_that_does_not_fit_the_plan_is_refused(make: Make, before: str, after: str, message: str) -> None:
    here = make()
    file = here.file(MEMBERS[0])
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    with pytest.raises(SettingsError, match=message):
        bank_of(here)


def test_a_private_bank_refuses_a_plan_of_trees(make: Make) -> None:
    here = make()
    with pytest.raises(SettingsError, match="expected the plan of a private run, got one of trees"):
        PrivateBank(load_settings(here.file(MEMBERS[0])), RoleLog("bank", MEMBERS[0]))


# --- the plan -------------------------------------------------------------------------------------------------------


def test_a_plan_of_trees_reads_back_as_itself_and_any_change_is_another_training(make: Make, tmp_path: Path) -> None:
    here = make()
    assert read_plan(here.plan.write(tmp_path / "plan")) == here.plan
    trees = here.plan.config.trees
    assert trees is not None
    others = [
        replace(here.plan, members=tuple(reversed(here.plan.members))),
        replace(here.plan, config=replace(here.plan.config, trees=replace(trees, bins=9))),
        replace(here.plan, name="another"),
    ]
    digests = {bank_of(here).initial().digest}
    for each in others:
        each.write(here.parties.home(MEMBERS[0]))
        digests.add(bank_of(here).initial().digest)
    assert len(digests) == len(others) + 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("depth = 2", "depth = 9", "depth"),
        ("bins = 8", "bins = 1", "bins"),
        ("class_weight = 1", "class_weight = 3", "a power of two"),
        ('"bank-0", "bank-1"', '"bank-0", "bank-0"', "each once"),
        ('kind = "trees"', 'kind = "mlp"', "trees"),
    ],
)
def test_a_plan_of_trees_is_read_as_if_a_stranger_wrote_it(
    make: Make, tmp_path: Path, before: str, after: str, message: str
) -> None:
    path = make().plan.write(tmp_path / "plan")
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(SettingsError, match=message):
        read_plan(path)


def test_a_plan_with_shared_counts_is_refused() -> None:
    config = configuration({"model": "trees", "no_dp": True, "customers": 60, "clients": 3})
    with pytest.raises(SettingsError, match=r"each bank's own columns: leave out \[statistics\]"):
        make_plan(config, read_source(config.data, config.seed))


def test_the_command_makes_the_plan_that_parties_need_without_any_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--schema", "simulated", "--trees", "3", "--depth", "2", "--out", str(tmp_path / "plan")]
    assert main([*asked, *[part for name in MEMBERS for part in ("--member", name)]]) == 0
    said = capsys.readouterr().out
    plan, course = planned_without_rows({"trees": 3, "depth": 2}, "simulated", list(MEMBERS))
    assert read_plan(tmp_path / "plan" / "federation.toml") == plan and plan.fingerprint in said
    assert "rounds 7 at most" in said and "value_bits = 40" in said and "quorum = 3" in said
    assert re.search(rf"max_length = {course.settings.max_length}$", said, re.MULTILINE)
    with pytest.raises(SystemExit) as refused:
        main(["--schema", "simulated", "--member", "a", "--member", "b", "--out", str(tmp_path / "other")])
    assert refused.value.code == 2 and resolve_schema("", "simulated").sha256 == plan.schema_sha256


@pytest.mark.parametrize(("banks", "rows"), [(3, 12_000), (3, 60_000), (10, 12_000), (10, 60_000)])
def test_one_size_of_integers_for_all_sums_costs_a_bank_little(banks: int, rows: int) -> None:
    """Against a size that is chosen for each sum, as in one process: 50 trees of depth 4, 17 columns in 64 bins."""
    members = [f"bank-{number}" for number in range(banks)]
    _, course = planned_without_rows({"trees": 50, "depth": 4}, "simulated", members)
    assert len(course.terms.columns) == 17 and course.cut == 39
    sums = [(1, course.opening * course.cut), *((50, course.level_bits(depth, rows)) for depth in range(4))]
    ours = sum(times * course.cost(-(-bits // course.cut)).bytes_up for times, bits in sums)
    theirs = 0
    for times, bits in sums:
        widths = np.array([bits])
        cut = cut_for(widths, banks)
        theirs += times * cost_of_integers(packed_length(widths, cut), (1 << cut) - 1, banks).bytes_up
    assert 0.8 < ours / theirs < 1.12


# --- the state ------------------------------------------------------------------------------------------------------


def test_a_state_reads_back_as_itself_and_not_under_another_plan(make: Make) -> None:
    here, other = make(), make(bins=9)
    course = here.course
    here.rounds().run(3)
    model, rounds, _ = FlatModel.from_bytes((here.parties.home(MEMBERS[0]) / "model.npz").read_bytes())
    kept = kept_of(model, course.terms)
    assert rounds == kept.progress.step == 3 and flat_of(kept, course.cut).digest == model.digest
    with pytest.raises(ModelMismatch, match="not of the plan"):
        kept_of(model, other.course.terms)
    with pytest.raises(ModelMismatch, match="not of the plan"):
        kept_of(FlatModel({"weights": np.zeros(3, np.float32)}), course.terms)
    for damage in (b"", b"[", b"{}", b"[" * 100_000):
        arrays = {**model.arrays, "kept": np.frombuffer(damage, np.uint8)}
        with pytest.raises(ModelMismatch, match="damaged"):
            kept_of(FlatModel(arrays), course.terms)


def test_the_sums_of_packed_integers_are_those_of_the_fields(make: Make) -> None:
    here = make()
    bank = bank_of(here)
    entered = bank.train(bank.initial(), 1, 0).draw
    assert entered is not None
    packed = entered(MEMBERS).astype(np.int64)
    widths = Kept.of(here.course.terms).progress.request.widths
    own = unpack(packed, widths, here.course.cut)
    assert own[0] == len(bank._own.train) and packed.max() < 1 << here.course.cut
