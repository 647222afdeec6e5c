"""Attack 8: a check of the sum, and one client that helps to pass it.

The check, after Freivalds 1977: the key holder draws a secret-free random vector r, every client answers <r, u_i>
modulo a large prime, and the decrypted sum S' is accepted if <r, S'> equals the sum of the answers. Against a lying
aggregator alone it is sound. But one colluding client answers last:  <r, S'> minus everybody else's answers. Any S'
passes. The same goes for every check in which each client has a say in the total.

What stops it here: nothing is checked against what clients claim. A sum that lacks an honest client's masks is uniform.
"""

from __future__ import annotations

import secrets

from demos.attacks.federation import COLLUDER, VICTIM, Collected, Federation, asking
from demos.attacks.verdict import Attack, Control, Shipped, judge, largest_error
from secagg import packing
from secagg.arrays import F64, U32

MODULUS = 2**61 - 1


def control() -> Control:
    """Key holder with the check, masks removed: the aggregator brings the victim alone, the colluder makes it pass."""
    cast = Federation(masking=False)
    collected = cast.collect()
    wrong = cast.added(cast.residues(collected.contributions[VICTIM]), cast.missing_weight())
    challenge = [secrets.randbelow(MODULUS) for _ in range(cast.plan.length + 1)]
    answers = [_fingerprint(challenge, _integers(cast, update), 1) for update in cast.updates[:COLLUDER]]
    # <r, S'> without knowing S': the victim's own answer, and the weight that the aggregator added.
    target = answers[VICTIM] + challenge[-1] * (len(cast.clients) - 1)
    answers.append((target - sum(answers)) % MODULUS)
    released = _checked_release(cast, wrong, challenge, answers)
    if released is None:
        return Control("CKKS with a Freivalds check", False, "the check refused")
    error = largest_error(released, cast.victim)
    return Control(
        "this project with a Freivalds check instead of masks",
        error <= cast.plan.max_error,
        f"the check passes; the victim's update with max error {error:.1e} (half a step)",
    )


def _checked_release(cast: Federation, residues: U32, challenge: list[int], answers: list[int]) -> F64 | None:
    """The key holder of the control: decrypt, check the digits, check the fingerprints, release."""
    key = cast.stolen_key()
    decoder = packing.Decoder(cast.plan, len(cast.clients))
    for index, block in enumerate(residues):
        decoder.add(index, key.decrypt(block))
    sums = decoder.sums()
    if _fingerprint(challenge, sums.sums.tolist(), sums.total_weight) != sum(answers) % MODULUS:
        return None
    return cast.estimate(sums.sums)


def _fingerprint(challenge: list[int], values: list[int], weight: int) -> int:
    return sum(r * value for r, value in zip(challenge, [*values, weight], strict=True)) % MODULUS


def _integers(cast: Federation, update: F64) -> list[int]:
    """A client's quantised values, as it knows them itself."""
    return [round(value / cast.plan.step) for value in update]


def shipped() -> Shipped:
    """The same sum; the colluder has no question to answer, so it contributes what would balance the others."""

    def victim_alone(cast: Federation, collected: Collected) -> U32:
        return cast.added(cast.residues(collected.contributions[VICTIM]), cast.missing_weight())

    def victim_and_colluder(cast: Federation, collected: Collected) -> U32:
        crowd = (collected.contributions[VICTIM], collected.contributions[COLLUDER])
        return cast.added(*(cast.residues(c) for c in crowd), cast.missing_weight(len(crowd)))

    return judge([asking(victim_alone), asking(victim_and_colluder)])


ATTACK = Attack("checked-sum", "bring any sum past a check by fingerprints, with one client's help", control, shipped)
