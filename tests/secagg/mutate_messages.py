"""Run in a process of its own, with a memory cap: mutates messages and feeds them to the receivers.

    python mutate_messages.py COUNT SEED

Prints one JSON object: how many mutants raised which error, and how many passed as well-formed. Anything but a
`PeerError` ends the process with a traceback, which the test reports.
"""

from __future__ import annotations

import collections
import hashlib
import json
import random
import resource
import sys
import warnings

import numpy as np

import secagg
from secagg import blocks, wire
from secagg.errors import PeerError
from secagg.session import Parties, Session, Terms

MODEL = bytes(32)
MEMORY_CAP = 4 << 30  # bytes of address space, most of it the libraries'


def round_in_flight():
    """A round whose last contribution and whose sum are still on their way."""
    plan = secagg.plan_round(length=3_000, max_clients=4, value_bits=12)
    session = Session(Parties.generate(["bank 0", "bank 1", "bank 2"]))
    roles = session.roles(Terms(plan))
    key_holder, aggregator, clients = roles.key_holder, roles.aggregator, roles.clients
    offer = key_holder.open(1, MODEL)
    for client in clients:
        key_holder.receive_join(client.join(offer, MODEL))
    roster = key_holder.close_roster()
    aggregator.open(offer, roster)
    contributions = [client.contribute(roster, np.full(plan.length, 0.25)) for client in clients]
    for contribution in contributions[:-1]:
        aggregator.receive(contribution)
    twin = session.aggregator(Terms(plan))
    twin.open(offer, roster)
    for contribution in contributions:
        twin.receive(contribution)
    return plan, aggregator, key_holder, contributions[-1], twin.close()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One random change; half of them in the first 600 bytes, where the structure is."""
    mutant = bytearray(data)
    place = rng.randrange(min(600, len(data))) if rng.random() < 0.5 else rng.randrange(len(data))
    match rng.randrange(7):
        case 0:
            mutant[place] ^= 1 << rng.randrange(8)
        case 1:
            mutant[place : place + 8] = rng.randbytes(8)
        case 2:
            del mutant[place:]
        case 3:
            mutant += rng.randbytes(rng.randrange(1, 64))
        case 4:
            del mutant[place : place + rng.randrange(1, 64)]
        case 5:
            length = rng.randrange(1, 64)
            mutant[place:place] = mutant[place : place + length]
        case 6:
            mutant[place : place + 4] = rng.choice((b"\xff" * 4, bytes(4), (2**30).to_bytes(4, "little")))
    return bytes(mutant)


def with_digest(mutant: bytes, payload_bytes: int) -> bytes:
    """The mutant with the digest that an attacker would put there."""
    body = mutant[:-32]
    split = max(len(body) - payload_bytes, 0)
    return body + hashlib.sha256(body[:split] + blocks.payload_hash(body[split:])).digest()


def main(count: int, seed: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_CAP, MEMORY_CAP))
    warnings.simplefilter("error")
    rng = random.Random(seed)
    plan, aggregator, key_holder, contribution, encrypted_sum = round_in_flight()
    total_before = [aggregator._total.block(index).copy() for index in range(plan.blocks)]
    verdicts: collections.Counter[str] = collections.Counter()
    for name, message, receive in (
        ("contribution", contribution, aggregator.receive),
        ("sum", encrypted_sum, key_holder.release),
    ):
        original = wire.encode(message, plan)
        for number in range(count):
            mutant = mutate(original, rng)
            if number % 2:
                mutant = with_digest(mutant, plan.residue_bytes)
            if mutant == original:
                continue
            try:
                decoded = wire.decode(mutant, plan)
            except PeerError as error:
                verdicts[f"{name} bytes {type(error).__name__}"] += 1
                continue
            # Well-formed, then: of the right type and size. Its sender's signature no longer fits.
            assert type(decoded) is type(message) and len(decoded.payload) == plan.residue_bytes
            try:
                receive(decoded)
                verdicts[f"{name} ACCEPTED"] += 1
            except PeerError as error:
                verdicts[f"{name} message {type(error).__name__}"] += 1
        # The same payload under a valid signature is for the residue checks alone.
        block = blocks.empty_block(plan.params)
        for _ in range(count // 10):
            payload = mutate(bytes(message.payload), rng)[: plan.residue_bytes].ljust(plan.residue_bytes, b"\0")
            try:
                for index in range(plan.blocks):
                    blocks.read_block(payload, index, plan.params, block)
                verdicts[f"{name} payload in range"] += 1
            except PeerError as error:
                verdicts[f"{name} payload {type(error).__name__}"] += 1
    total_after = [aggregator._total.block(index) for index in range(plan.blocks)]
    state_kept = bool(np.array_equal(total_before, total_after)) and key_holder.state.value == "closed"
    aggregator.receive(contribution)
    released = key_holder.release(encrypted_sum)
    exact = bool((released.sums == 3 * round(0.25 * plan.max_value)).all())
    print(json.dumps({"verdicts": verdicts, "state_kept": state_kept, "round_ends_exactly": exact}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
