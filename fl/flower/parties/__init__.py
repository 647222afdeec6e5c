"""The roles of `secagg` behind byte strings: what a bank, the key holder and the aggregator do with each call.

    bank.py         a bank, and what it needs of the application that it serves
    key_holder.py   the key holder
    aggregator.py   the aggregator
    request.py      what the aggregator asks of the key holder, signed
    party.py        what all three have in common
    enrolment.py    identities and the list, for parties on one machine

The only package of the Flower app that imports `secagg`. Everything a role acts on is signed by an enrolled party and
checked by `secagg`; what comes unsigned (plain fields of a call) can delay a round or end it, and nothing else.
"""
