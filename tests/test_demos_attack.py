"""`python -m demos attack`: every attack is really played, its control succeeds, and nothing gets through here."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from demos import attacks
from demos.attack import attack, report
from demos.attacks import federation, malformed_ciphertext, tokens_in_lanes
from demos.attacks.verdict import Attack, Control, Loot, Shipped, correlation, exposes, judge, perform
from secagg import packing, plan
from secagg.errors import BadSignature, SumRefused, UpdateReused

ROOT = Path(__file__).resolve().parents[1]
NAMES = [each.name for each in attacks.ATTACKS]

# Attacks that end without a refusal: a key gets out, or would on stock CKKS, and opens nothing.
HARMLESS = {"key-recovery", "malformed-ciphertext", "key-in-the-release", "products-half-hidden"}


@pytest.mark.parametrize("each", attacks.ATTACKS, ids=NAMES)
def test_the_control_succeeds_and_here_the_attack_fails(each):
    played = perform(each)
    assert played.control.succeeded, played.control.figure
    assert played.shipped.outcome == ("harmless" if each.name in HARMLESS else "refused")
    assert played.shipped.exposed_updates == 0


def test_the_command_prints_one_object_and_ends_0():
    """The whole command in a process of its own, as a reader runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "demos", "attack", "--all", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) == {"attacks", "exposed_updates"} and printed["exposed_updates"] == 0
    assert [entry["name"] for entry in printed["attacks"]] == NAMES and len(NAMES) >= 20
    for entry in printed["attacks"]:
        assert set(entry) == {"name", "stock", "figure", "ours", "error"}
        assert entry["stock"] == "succeeds" and entry["ours"] in ("refused", "harmless")
        assert re.search(r"\d", entry["figure"]) and entry["error"]


def test_stock_fedavg_takes_every_model_from_stock_flower_and_none_from_here():
    played = perform(next(each for each in attacks.ATTACKS if each.name == "stock-fedavg"))
    assert played.control.figure.startswith("3 of 3 banks' own models, to ")
    assert played.shipped.note == "0 arrays in 28 replies"
    assert set(played.shipped.errors) == {"MessageRefused"} and len(played.shipped.errors) == 28


def test_an_attack_whose_extra_is_not_installed_is_left_out_by_name_and_never_silently(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "flwr" else real(name, *rest))
    staged = Attack("easy", "for this test", lambda: WORKS, lambda: REFUSED)
    flower = next(each for each in attacks.ATTACKS if each.name == "stock-fedavg")
    monkeypatch.setattr(attacks, "ATTACKS", (staged, flower))
    together = CliRunner().invoke(attack, ["--all", "--json"])
    assert together.exit_code == 0 and "not played: stock-fedavg needs the extra 'flower'" in together.stderr
    easy, left_out = json.loads(together.stdout)["attacks"]
    assert easy["stock"] == "succeeds" and left_out["stock"] == left_out["ours"] == "not played"
    assert left_out["error"] == "stock-fedavg needs the extra 'flower': in a checkout, pip install -e '.[flower]'"
    alone = CliRunner().invoke(attack, ["stock-fedavg"])
    assert alone.exit_code == 1 and "needs the extra 'flower'" in alone.stderr


def test_what_the_command_calls_refused_names_the_errors_of_the_package():
    played = perform(next(each for each in attacks.ATTACKS if each.name == "below-quorum"))
    entry = report([played])["attacks"][0]
    assert entry["error"] == "RosterMismatch, QuorumNotMet"


# --- controls that never fail ---------------------------------------------------------------------------------------


def refusal_log2(cast: federation.Federation) -> float:
    """log2 of a bound of the probability that the noise of an honest sum is refused.

    Over all keys: |e|^2 and |s|^2 exceed the limits of tail t (plan.key_norm_limits has t = 42 ln 2) with probability
    exp(-t) each, and then the plan's own 2^-40 still holds.
    """
    degree, limit = cast.plan.params.degree, cast.plan.noise_limit(len(cast.clients))
    variance = 3 * plan.ERROR_VARIANCE**2 - 42 / 8 - plan.ERROR_VARIANCE**2
    bounds = []
    for t in range(1, 30):
        linear = plan.ERROR_MAX**2 * t / 3
        error = degree * plan.ERROR_VARIANCE + linear + math.sqrt(linear**2 + 2 * degree * variance * t)
        secret = degree * 2 / 3 + math.sqrt(degree * t / 2)
        proxy = len(cast.clients) * (2 / 3 * error + 10.5 + 10.5 * secret)
        noisy = 2 * cast.plan.blocks * degree * math.exp(-(limit**2) / (2 * proxy))
        bounds.append(math.log2(2 * math.exp(-t) * 2**plan.FAILURE_TARGET_LOG2 + noisy))
    return min(bounds)


def test_an_honest_sum_of_the_stories_is_refused_for_its_noise_with_less_than_two_to_the_minus_45():
    for length in (federation.LENGTH, tokens_in_lanes.LENGTH):
        cast = federation.Federation(length=length)
        assert refusal_log2(cast) < -45


@pytest.mark.parametrize("trick", tokens_in_lanes.TRICKS, ids=lambda trick: trick.__name__)
def test_no_trick_of_the_control_makes_more_noise_than_the_honest_contributions(trick):
    """A block counted twice has twice the noise, which the key holder refuses for some keys."""
    cast = federation.Federation(federation.CLIENTS, tokens_in_lanes.LENGTH, masking=False)
    collected = cast.collect()

    def noise_of(residues: np.ndarray) -> float:
        plaintext = cast.stolen_key().decrypt(np.ascontiguousarray(residues[0]))
        return float(np.std(packing.digits_of(plaintext, cast.plan)[0][0]))

    # Of 4,096 coefficients: the two standard deviations are known to 1.1 % each.
    assert noise_of(trick(cast, collected)) < 1.25 * noise_of(cast.honest_sum(collected))


# --- a command that can fail ----------------------------------------------------------------------------------------


def played_by(monkeypatch, control: Control, shipped: Shipped):
    staged = Attack("staged", "for this test", lambda: control, lambda: shipped)
    monkeypatch.setattr(attacks, "ATTACKS", (staged,))
    return CliRunner().invoke(attack, ["--all", "--json"])


WORKS, FAILS = Control("stock", True, "1 of 1"), Control("stock", False, "0 of 1")
REFUSED = Shipped("refused", ("SumRefused",), 0)


def test_a_control_that_fails_fails_the_command(monkeypatch):
    result = played_by(monkeypatch, FAILS, REFUSED)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["attacks"][0]["stock"] == "fails"
    assert "proves nothing" in result.stderr


@pytest.mark.parametrize("outcome", ["exposed", "accepted"])
def test_an_attack_that_gets_through_fails_the_command(monkeypatch, outcome):
    result = played_by(monkeypatch, WORKS, replace(REFUSED, outcome=outcome, exposed_updates=1))
    assert result.exit_code == 1
    assert json.loads(result.stdout)["exposed_updates"] == 1


def test_an_attack_that_fails_as_it_should_ends_0(monkeypatch):
    assert played_by(monkeypatch, WORKS, REFUSED).exit_code == 0


def test_wrong_usage_ends_2():
    for arguments in ([], ["no-such-attack"], ["made-up-sum", "--all"]):
        assert CliRunner().invoke(attack, arguments).exit_code == 2


def test_the_list_names_every_attack_and_plays_none(monkeypatch):
    monkeypatch.setattr("demos.attacks.verdict.perform", None)
    printed = json.loads(CliRunner().invoke(attack, ["--list", "--json"]).stdout)
    assert [entry["name"] for entry in printed["attacks"]] == NAMES
    table = CliRunner().invoke(attack, ["--list"])
    assert table.exit_code == 0 and all(name in table.stdout for name in NAMES)


def test_one_attack_by_name_is_shown_as_a_table():
    result = CliRunner().invoke(attack, ["made-up-sum"])
    assert result.exit_code == 0 and "made-up-sum" in result.stdout and "refused" in result.stdout


# --- verdicts that can be wrong -------------------------------------------------------------------------------------


def test_a_verdict_rests_on_what_the_attacker_holds():
    victim = np.random.default_rng(0).normal(size=1_000)
    noise = np.random.default_rng(1).normal(size=1_000)

    def refused() -> Loot:
        raise SumRefused("refused")

    def reused() -> Loot:
        raise UpdateReused("again")

    hit, miss = Loot(-2 * victim + 0.1 * noise, victim), Loot(noise, victim)
    computed = replace(miss, accepted=False)
    assert judge([refused, reused]).errors == ("SumRefused", "UpdateReused")
    assert judge([refused, lambda: hit]) == Shipped("exposed", ("SumRefused",), 1)
    assert judge([refused, lambda: miss]).outcome == "accepted"
    assert judge([refused, lambda: computed]).outcome == "refused"
    assert judge([lambda: computed]).outcome == "harmless"
    assert judge([lambda: replace(hit, accepted=False)] * 2).exposed_updates == 2


def test_errors_that_are_not_the_packages_are_not_counted_as_refusals():
    def broken() -> Loot:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge([broken])


def test_an_honest_average_exposes_nobody_and_a_scaled_or_shifted_copy_does():
    rng = np.random.default_rng(2)
    updates = rng.normal(size=(federation.CLIENTS, 6_000))
    assert not exposes(updates.mean(axis=0), updates[0])
    assert exposes(updates[0] * 1e-3 + 7, updates[0])
    assert correlation(np.ones(9), updates[0, :9]) == 0.0


# --- the cast is the project as shipped -----------------------------------------------------------------------------


def test_the_stories_cast_releases_an_honest_round_exactly():
    """Otherwise everything would be refused, and every attack with it."""
    cast = federation.Federation()
    collected = cast.collect()
    release = cast.key_holder.release(cast.signed_sum(collected, cast.honest_sum(collected)))
    expected = sum(np.rint(update / cast.plan.step).astype(np.int64) for update in cast.updates)
    assert np.array_equal(release.sums, expected)
    for client in cast.clients:
        assert client.accept(release).contributors == federation.CLIENTS


def test_a_malicious_sum_of_the_genuine_kind_passes_every_check_of_its_message():
    """A forgery that failed on its own signature would show nothing about the masks."""
    cast = federation.Federation()
    collected = cast.collect()
    with pytest.raises(SumRefused):
        cast.key_holder.release(cast.signed_sum(collected, cast.residues(collected.contributions[0])))
    other = federation.Federation()
    theirs = other.collect()
    message = other.signed_sum(theirs, other.honest_sum(theirs))
    with pytest.raises(BadSignature):
        other.key_holder.release(replace(message, signature=bytes(64)))


@pytest.mark.parametrize("play", [malformed_ciphertext.by_a_client, malformed_ciphertext.by_the_aggregator])
def test_the_leaked_key_opens_nothing_but_the_honest_sum(play):
    """The key leaks whole, and every contribution of the round stays closed; the test that `harmless` stands on."""
    found = malformed_ciphertext.leak(True, play)
    cast = found.cast
    assert found.matching == cast.plan.params.degree
    for client in range(federation.CLIENTS - 1):
        opened = cast.estimate(malformed_ciphertext._open(found, client))
        assert abs(correlation(opened, cast.updates[client])) < 0.15  # 11 standard deviations of 6,000 values
    others = np.sum([np.rint(u / cast.plan.step) for u in cast.updates], axis=0)
    assert np.array_equal(found.others, others)
