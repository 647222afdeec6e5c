"""Attack 8: a wrong sum passes a check of fingerprints with the help of one client.

The check follows Freivalds 1977. The key holder draws a public random vector r. Every client answers <r, u_i> modulo a
large prime. The key holder accepts the decrypted sum S' if <r, S'> equals the sum of the answers. The check is sound
against a lying aggregator that has no accomplice. But a colluding client can answer last, with <r, S'> minus the
answers of all others, and then any S' passes. The same holds for every check whose target is a total of the clients'
claims.

What stops it here: the key holder compares the sum with nothing that clients claim. A sum that lacks an honest client's
masks is uniformly random, and the checks of its digits refuse it.
"""

from __future__ import annotations

import secrets

from demos.attacks.federation import COLLUDER, VICTIM, Collected, Federation, asking
from demos.attacks.verdict import Attack, Control, Shipped, judge, largest_error
from secagg import packing
from secagg.arrays import F64, U32

MODULUS = 2**61 - 1


def control() -> Control:
    """Masks removed, check added: the aggregator sends the victim's part alone, and the colluder makes it pass."""
    cast = Federation(masking=False)
    collected = cast.collect()
    wrong = cast.added(cast.residues(collected.contributions[VICTIM]), cast.missing_weight())
    challenge = [secrets.randbelow(MODULUS) for _ in range(cast.plan.length + 1)]
    answers = [_fingerprint(challenge, _integers(cast, update), 1) for update in cast.updates[:COLLUDER]]
    # The colluder knows <r, S'> without S': it is the victim's answer plus the term of the weight that was added.
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
    """What the control's key holder does: decrypt, check the digits and the fingerprints, release. None: refused."""
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
    """The quantised values of a client's update, which the client itself computes."""
    return [round(value / cast.plan.step) for value in update]


def shipped() -> Shipped:
    """The same sum. There is no question that the colluder could answer, so it adds its own contribution instead."""

    def victim_alone(cast: Federation, collected: Collected) -> U32:
        return cast.added(cast.residues(collected.contributions[VICTIM]), cast.missing_weight())

    def victim_and_colluder(cast: Federation, collected: Collected) -> U32:
        crowd = (collected.contributions[VICTIM], collected.contributions[COLLUDER])
        return cast.added(*(cast.residues(c) for c in crowd), cast.missing_weight(len(crowd)))

    return judge([asking(victim_alone), asking(victim_and_colluder)])


ATTACK = Attack("checked-sum", "bring any sum past a check by fingerprints, with one client's help", control, shipped)
