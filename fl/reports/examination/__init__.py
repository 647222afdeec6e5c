"""The examination of a finished run: what a person who must answer for a model asks before it is used.

    evidence.py      reads the run and scores its rows again: what all other files look at
    figures.py       how much fraud is found, and beside which baselines
    calibration.py   whether a score is a probability
    timeliness.py    days from a compromise to its first alert
    drift.py         whether the world of the test days is still that of the training days
    fairness.py      who is flagged, by group
    explanations.py  which features decide, and whether banks agree on it
    findings.py      the few sentences that a reader sees first
    report.py        all of it as one JSON object
    page.py          that object as a page, from fl/reports/templates; plots.py draws its figures

Everything here is **evaluation only**: it reads labelled rows of all banks in one place, outside every privacy
budget. A report holds figures of groups, days and banks, never a transaction, a card or a terminal.
"""

from __future__ import annotations
