"""Runs of trees over Flower: the opening sum, then one sum for each level of each tree, each bank at its own node.

    plan.py      the sums of a run of trees, and its plan on the command line (../federation_plan.py has the plan)
    state.py     a training after so many sums, as the model that offers name
    partners.py  among which banks this bank's trees were grown so far, for good
    bank.py      a bank: its rows, and its part in each sum
    home.py      what a bank compares and writes at home, and sends to nobody
    local.py     a federation on one machine, and the same training in one process

The rounds are those of any run (`fl.flower.workflow`): aggregator and key holder neither know nor see that they carry
histograms. What is summed, and what follows from it, is `fl.trees`.
"""
