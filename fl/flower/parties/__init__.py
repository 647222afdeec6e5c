"""The roles of `secagg` behind byte strings: what a bank, the key holder and the aggregator do with each call.

    bank.py         a bank, and what it needs of the application that it serves
    key_holder.py   the key holder
    aggregator.py   the aggregator
    request.py      signed requests of the aggregator
    statement.py    what a party says about itself, signed over a challenge
    party.py        what all three have in common
    enrolment.py    identities and the list, for parties on one machine

The only package of the Flower app that imports `secagg`. Everything a role acts on is signed by an enrolled party and
checked by `secagg` or here. Unsigned messages (parts of byte strings, questions) change no role and no model.
"""
