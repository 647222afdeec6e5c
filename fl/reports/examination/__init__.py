"""Examine a finished run: the questions of a person who is responsible for a model, before it is used.

    evidence.py      reads the run and scores its rows again, for all other files
    figures.py       how much fraud is detected, compared with the baselines
    review.py        what a team finds that reviews so many transactions
    calibration.py   whether a score is a probability
    timeliness.py    days from a compromise to its first alert
    drift.py         whether the test days still look like the training days
    fairness.py      rates of flagged rows by group
    explanations.py  which features decide, and whether banks agree on it
    findings.py      the sentences at the top of the report
    report.py        all of it as one JSON object
    page.py          that object as a page, from fl/reports/templates; plots.py draws its figures

Everything here is **evaluation only**: it reads labelled rows of all banks in one place, outside every privacy
budget. A report holds figures of groups, days and banks, never a transaction, a card or a terminal.
"""

from __future__ import annotations
