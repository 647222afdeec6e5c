"""Federated algorithms, one file each, over the same encrypted sums.

    fedavg          the mean of the updates is added to the model; what the others derive from
    fedprox         a pull back to the common model in local training
    fedadam         the server takes an Adam step along the mean
    heads           shared layers are averaged, each bank's head stays at the bank
    fedbuff         rounds close at K joins, and nobody waits for the slowest bank
    participation   who takes part in a round, and what becomes of those who vanish

`fl.rounds.joint_steps` is one more, for runs in which all banks share one noise. `settings` makes an algorithm from a
configuration; `state` has the types that they share; `fl.rounds.play` plays them. docs/algorithms.md compares them.
"""
