"""Federated algorithms, one file each, on the same encrypted sums.

    fedavg          the mean of the updates is added to the model; base class of the others
    fedprox         a penalty on the distance to the common model in local training (FedProx term: mu)
    fedadam         the server takes an Adam step along the mean
    heads           shared layers are averaged, each bank's head stays at the bank
    fedbuff         rounds close at K joins, without waiting for the slowest bank
    participation   which banks take part in a round, and simulated dropouts

`fl.rounds.joint_steps` is another one, for runs in which all banks share one noise. `settings` builds an algorithm from
a configuration, `state` has the common types, and `fl.rounds.play` plays the rounds. docs/algorithms.md compares them.
"""
