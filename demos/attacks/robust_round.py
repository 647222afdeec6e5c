"""Three attacks on robust rounds; each control is a design that came before the one that is shipped (ADR 0023).

    products-half-hidden   the key holder and one client divide the polynomials of a pair, and read a victim's sketch
    one-key-for-both       the aggregator adds a victim's sketch to the masked sum and to the sum of sketches
    kernel-of-a-sketch     a client contributes an update that the sketch maps to a harmless one

What stops them here: a fresh encryption of zero hides the linear part of each pair as well; sketches have a key of
their own; the second sketch's seed depends on a number that nobody knew and on every contribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

import secagg
from demos.attacks.verdict import Attack, Control, Loot, Shipped, judge, largest_error
from secagg import gram, kernels, sketches
from secagg.arrays import F64, I64, U32, U64
from secagg.blocks import empty_block, payload_hash, read_block, write_block
from secagg.messages import RobustSum
from secagg.parameters import ParameterSet
from secagg.ring import ring_of
from secagg.robust_aggregator import RobustAggregator
from secagg.robust_client import RobustClient
from secagg.robust_keyholder import RobustKeyHolder
from secagg.session import Parties, Session, Terms
from secagg.sketchkey import SketchKey, SketchSecret, generate_sketch_keys, mirrored
from secagg.sketchplan import SketchPlan, plan_sketches
from secagg.transcript import message_hash, signed_bytes

CLIENTS, LENGTH, LONG = 5, 300, 64_000
ATTACKER = 1
MODEL = bytes(32)


def _updates(length: int, scale: float = 0.1) -> list[F64]:
    rng = np.random.default_rng()
    common = rng.normal(scale=scale, size=length)
    return [common + rng.normal(scale=scale, size=length) for _ in range(CLIENTS)]


class _Round:
    """A robust round of the real roles, in which one party does something else."""

    def __init__(self, length: int) -> None:
        self.plan = secagg.plan_round(length, max_clients=CLIENTS)
        self.sketch = plan_sketches(self.plan)
        self.parties = Parties.generate([f"bank {i}" for i in range(CLIENTS)])
        roles = Session(self.parties).roles(Terms(self.plan, threads=1, robust=secagg.Robust()))
        key_holder, aggregator = roles.key_holder, roles.aggregator
        assert isinstance(key_holder, RobustKeyHolder) and isinstance(aggregator, RobustAggregator)
        self.key_holder, self.aggregator, self.sent = key_holder, aggregator, roles.sent
        self.clients = [each for each in roles.clients if isinstance(each, RobustClient)]
        self.offer = self.sent(key_holder.open(1, MODEL))

    def contributed(self, updates: Sequence[F64]) -> dict[bytes, U32]:
        """Play up to the contributions; returns the encrypted sketches that the aggregator has, by sender."""
        intake = self.sent(self.aggregator.prepare(self.offer))
        for client, update in zip(self.clients, updates, strict=True):
            join, sketch = client.join_with_sketch(self.offer, MODEL, update, intake)
            self.key_holder.receive_join(self.sent(join))
            self.aggregator.receive_sketch(self.sent(sketch))
        roster = self.sent(self.key_holder.judge(self.sent(self.aggregator.multiply())))
        self.aggregator.open(self.offer, roster)
        for client in self.clients:
            self.aggregator.receive(self.sent(client.contribute(roster)))
        return {sender: each.block for sender, each in self.aggregator.gathered.items()}

    def looked_again(self) -> None:
        """The second look, with honest second sketches."""
        late_seed = self.sent(self.key_holder.reveal(self.sent(self.aggregator.tally())))
        self.aggregator.reopen(late_seed)
        for client in self.clients:
            self.aggregator.receive_sketch(self.sent(client.sketch_again(late_seed)))
        self.key_holder.judge_again(self.sent(self.aggregator.multiply()))

    def released(self, encrypted_sum: RobustSum) -> I64:
        """The sums that the key holder releases."""
        return self.key_holder.release(encrypted_sum).sums


# --- products-half-hidden -------------------------------------------------------------------------------------------


def _read_pair(hidden: bool) -> tuple[I64, I64]:
    """(the victim's integers, what the key holder and a colluder take for them)."""
    plan = secagg.plan_round(LENGTH, max_clients=2)
    sketch = plan_sketches(plan)
    params, ring = sketch.params, ring_of(sketch.params)
    key, secret = generate_sketch_keys(params)
    victim, colluder = (np.rint(update / plan.step).astype(np.int64) for update in _updates(LENGTH)[:2])
    blocks = [_encrypted(each, key, sketch) for each in (victim, colluder)]
    square, shared = (_product(blocks[0][1], mirrored(each[1], params), params) for each in blocks)
    if hidden:
        parts = gram.parts_of(gram.hidden_products(blocks, key, sketch), 2, sketch)
        linear = gram.lifted(parts.uppers[0], parts.lowers[0], params)
        ring.to_ntt(linear)
    else:  # the first design: zeros hide the constant alone
        linear = _product(blocks[0][1], mirrored(blocks[0][0], params), params)
        ring.add(linear, linear.copy())
    return victim, _divided(linear, square, shared, blocks[1][1], secret, sketch)[:LENGTH]


def _product(one: U32, other: U32, params: ParameterSet) -> U32:
    found = np.empty_like(one)
    kernels.multiply(one, np.ascontiguousarray(other), ring_of(params).primes, found)
    return found


def _encrypted(integers: I64, key: SketchKey, sketch: SketchPlan) -> U32:
    block = empty_block(sketch.params)
    read_block(gram.seal_sketch(integers, key, sketch), 0, sketch.params, block)
    return block


def _divided(linear: U32, square: U32, shared: U32, colluder: U32, secret: SketchSecret, sketch: SketchPlan) -> I64:
    """linear / square of the victim with itself is sigma(2 c0 / c1), and the colluder divides its own c1 out."""
    params = sketch.params
    primes = np.array(params.primes, dtype=np.uint64)[:, None]
    ratio = linear.astype(np.uint64) * _inverse(2 * square.astype(np.uint64) % primes, primes) % primes
    c1 = shared.astype(np.uint64) * _inverse(mirrored(colluder, params).astype(np.uint64), primes) % primes
    message = (mirrored(ratio.astype(np.uint32), params).astype(np.uint64) * c1 % primes).astype(np.uint32)
    return gram.rounded(secret.decrypt(np.stack([message, c1.astype(np.uint32)])), sketch)


def _inverse(residues: U64, primes: U64) -> U64:
    """Modulo each prime, slot by slot: the power p - 2."""
    found: U64 = np.ones_like(residues)
    for bit in range(30):
        odd = ((primes - 2) >> np.uint64(bit)) & np.uint64(1)
        found = np.where(odd == 1, found * residues % primes, found)
        residues = residues * residues % primes
    return found


def half_hidden_control() -> Control:
    """The attack where the constant's polynomial alone is hidden."""
    victim, found = _read_pair(hidden=False)
    right = int((victim == found).sum())
    return Control("robust rounds whose constant alone is hidden", right == LENGTH, f"{right} of {LENGTH} values")


def half_hidden_shipped() -> Shipped:
    """The same on what the key holder receives here."""
    victim, found = _read_pair(hidden=True)
    note = f"{int((victim == found).sum())} of {LENGTH} values"
    return judge([lambda: Loot(found.astype(np.float64), victim.astype(np.float64), accepted=False)], note)


# --- one-key-for-both -----------------------------------------------------------------------------------------------


def one_key_control() -> Control:
    """One key: the same ciphertext fits both sums, and the sketch of the sum is the sum of the sketches."""
    plan = secagg.plan_round(LENGTH, max_clients=CLIENTS)
    sketch, ring = plan_sketches(plan), ring_of(plan_sketches(plan).params)
    key, secret = generate_sketch_keys(sketch.params)
    updates = _updates(LENGTH)
    integers = [np.rint(update / plan.step).astype(np.int64) for update in updates]
    blocks = [_encrypted(each, key, sketch) for each in integers]
    total = blocks[0].copy()
    for block in (*blocks[1:], blocks[0]):
        ring.add(total, block)
    sums = gram.rounded(secret.decrypt(total), sketch)[:LENGTH]
    passes = bool(np.array_equal(sketches.sketch_of_sums(sums, sketch, bytes(32)), sums))
    error = largest_error((sums - np.sum(integers, axis=0)) * plan.step, updates[0])
    figure = f"the exact check passes; the victim's update with max error {error:.1e} (half a step)"
    return Control("robust rounds with one key", passes and error <= plan.max_error, figure)


def one_key_shipped() -> Shipped:
    """The aggregator adds the victim's sketch to the sum of sketches; it has nothing to add to the masked sum."""

    def attempt() -> Loot:
        updates, played = _updates(LENGTH), _Round(LENGTH)
        victim = played.contributed(updates)[played.parties.clients[0].key]
        encrypted_sum = played.aggregator.close()
        assert isinstance(encrypted_sum, RobustSum)
        params = played.sketch.params
        total, payload = empty_block(params), bytearray(played.sketch.bytes)
        read_block(encrypted_sum.sketches, 0, params, total)
        ring_of(params).add(total, victim)
        write_block(total, 0, params, np.frombuffer(payload, dtype=np.uint8))
        changed = replace(encrypted_sum, sketches=payload, sketches_hash=payload_hash(payload))
        signed = replace(changed, signature=played.parties.aggregator.sign(signed_bytes(changed)))
        return Loot(played.released(signed).astype(np.float64), updates[0])

    return judge([attempt])


# --- kernel-of-a-sketch ---------------------------------------------------------------------------------------------


def _unseen(sketch: SketchPlan, seed: bytes, most: int = 80) -> I64:
    """Pairs of values that meet in one sum of the sketch and cancel there: int64[length] of -1, 0 and 1."""
    place, sign = sketches.places(sketch, seed)
    first: dict[int, int] = {}
    found, pairs = np.zeros(sketch.length, dtype=np.int64), 0
    for i in range(sketch.length):
        j = first.setdefault(int(place[i]), i)
        if j != i and not found[j] and pairs < most:
            found[i], found[j] = sign[i], -sign[j]
            pairs += 1
    return found


def _poisoned() -> tuple[_Round, F64, bytes]:
    """A round up to its contributions, the poison in it, and the first seed, which the attacker knew."""
    played = _Round(LONG)
    updates = _updates(LONG, 0.004)
    early = sketches.early_seed(message_hash(played.offer))
    poison = 0.9 * _unseen(played.sketch, early)
    integers = np.rint(updates[ATTACKER] / played.plan.step) + np.rint(poison / played.plan.step)
    updates[ATTACKER] = integers * played.plan.step
    played.contributed(updates)
    return played, poison, early


def kernel_control() -> Control:
    """The first design: the second sketch has the seed of the first."""
    honest = sketches.late_seed
    played, poison, early = _poisoned()
    sketches.late_seed = lambda secret, roster, contributions: early
    try:
        played.looked_again()
        encrypted_sum = played.aggregator.close()
        assert isinstance(encrypted_sum, RobustSum)
        sums = played.released(encrypted_sum) * played.plan.step
    finally:
        sketches.late_seed = honest
    share = float(sums @ poison / (poison @ poison))
    values = int(np.count_nonzero(poison))
    figure = f"{values} values of .9 of the clip released, {share:.0%} of the poison"
    return Control("robust rounds whose seeds are known beforehand", share > 0.9, figure)


def kernel_shipped() -> Shipped:
    """The same against the first sketch; the seed of the second is unknown while updates can still be chosen."""

    def attempt() -> Loot:
        played, poison, _ = _poisoned()
        played.looked_again()
        return Loot(np.zeros(LONG), poison)

    return judge([attempt])


ATTACKS = (
    Attack(
        "products-half-hidden",
        "divide the polynomials of a pair, with one client's help, and read a victim's sketch",
        half_hidden_control,
        half_hidden_shipped,
    ),
    Attack(
        "one-key-for-both",
        "add a victim's sketch to the masked sum and to the sum of sketches",
        one_key_control,
        one_key_shipped,
    ),
    Attack(
        "kernel-of-a-sketch",
        "contribute an update that the sketch maps to a harmless one",
        kernel_control,
        kernel_shipped,
    ),
)
