"""The three roles in processes of their own, with bytes between them: what an embedder carries over a network.

python examples/three_processes.py
"""

from multiprocessing import get_context

import numpy as np

import secagg

MODEL, PLAN = bytes(32), secagg.plan_round(length=5_000, max_clients=8)


def bank(pipe, identity_file, name, enrolment_file, update):
    """Joins, seals its update for the closed roster, reads the average."""
    secagg.protect_process()
    enrolment = secagg.Enrolment.load(enrolment_file)
    client = secagg.Client(secagg.Identity.load(identity_file, name), enrolment, PLAN, quorum=3)
    pipe.send(secagg.encode(client.join(secagg.decode(pipe.recv(), PLAN), MODEL), PLAN))
    pipe.send(secagg.encode(client.contribute(secagg.decode(pipe.recv(), PLAN), update), PLAN))
    pipe.send(client.accept(secagg.decode(pipe.recv(), PLAN)).values)


def aggregator(pipe, identity_file, name, enrolment_file, clients):
    """Adds what it cannot read."""
    secagg.protect_process()
    role = secagg.Aggregator(secagg.Identity.load(identity_file, name), secagg.Enrolment.load(enrolment_file), PLAN)
    role.open(secagg.decode(pipe.recv(), PLAN), secagg.decode(pipe.recv(), PLAN))
    for _ in range(clients):
        role.receive(secagg.decode(pipe.recv(), PLAN))
    pipe.send(secagg.encode(role.close(), PLAN))


def key_holder(pipe, identity_file, name, enrolment_file, clients):
    """Opens the round, closes the roster, decrypts the sum once."""
    secagg.protect_process()
    role = secagg.KeyHolder(
        secagg.Identity.load(identity_file, name), secagg.Enrolment.load(enrolment_file), PLAN, quorum=3
    )
    pipe.send(secagg.encode(role.open(step=1, model=MODEL), PLAN))
    for _ in range(clients):
        role.receive_join(secagg.decode(pipe.recv(), PLAN))
    pipe.send(secagg.encode(role.close_roster(), PLAN))
    pipe.send(secagg.encode(role.release(secagg.decode(pipe.recv(), PLAN)), PLAN))


def run(folder, updates):
    """Start every role as a process of its own and carry bytes; returns the average that the first bank got."""
    names = ["key holder", "aggregator", *(f"bank {i}" for i in range(len(updates)))]
    members = []
    for name in names:
        identity = secagg.Identity.generate(name)
        identity.save(f"{folder}/{name}.json")
        members.append(identity.member)
    secagg.Enrolment.of(members[0], members[1], tuple(members[2:])).save(f"{folder}/enrolment.json")

    spawn, pipes, processes = get_context("spawn"), [], []
    work = [(key_holder, len(updates)), (aggregator, len(updates)), *((bank, update) for update in updates)]
    for name, (role, extra) in zip(names, work, strict=True):
        here, there = spawn.Pipe()
        arguments = (there, f"{folder}/{name}.json", name, f"{folder}/enrolment.json", extra)
        processes.append(spawn.Process(target=role, args=arguments))
        pipes.append(here)
        processes[-1].start()
    keys, adder, *banks = pipes

    offer = keys.recv()
    for pipe in banks:
        pipe.send(offer)
    for pipe in banks:
        keys.send(pipe.recv())  # joins
    roster = keys.recv()
    adder.send(offer)
    for pipe in (adder, *banks):
        pipe.send(roster)
    for pipe in banks:
        adder.send(pipe.recv())  # contributions
    keys.send(adder.recv())  # the encrypted sum
    release = keys.recv()
    for pipe in banks:
        pipe.send(release)
    averages = [pipe.recv() for pipe in banks]
    for process in processes:
        process.join()
    return averages[0]


if __name__ == "__main__":
    import tempfile

    rng = np.random.default_rng(0)
    updates = [rng.normal(scale=0.2, size=PLAN.length) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        average = run(folder, updates)
    exact = np.mean([np.clip(u, -1, 1) for u in updates], axis=0)
    print(f"largest error {np.abs(average - exact).max():.2e}, bound {PLAN.max_error:.2e}")
