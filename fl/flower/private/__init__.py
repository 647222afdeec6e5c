"""Private runs over Flower: noisy counts of frauds, then steps of all banks under one noise, each bank at its own node.

    plan.py    the rounds of a private run, and its plan on the command line (../federation_plan.py has the plan)
    state.py   what a bank knows after so many releases, as the model that offers name
    bank.py    a bank: its rows, its drafts, its ledger, its part in each sum
    home.py    what a bank compares at home and sends to nobody

The rounds are those of any run (`fl.flower.workflow`): aggregator and key holder neither know nor see that they carry
counts and gradients. A bank's mechanisms, ledger entries and models are those of `fl.runs` in one process.
"""
