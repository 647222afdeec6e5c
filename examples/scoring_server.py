"""A scoring service in one file: transactions in as JSON, scores out. Needs the extras fl and serve.

python examples/scoring_server.py runs/NAME --history past.csv

    POST /score    {"rows": [{"TIME": "2024-03-18T09:00:00", "CUSTOMER": "c1", "AMOUNT": 12.5, ...}, ...]}
                   -> {"threshold": 0.31, "scores": [{"row": 0, "bank": "bank-2", "score": 0.02, "calibrated": 0.001,
                                                      "threshold": 0.31, "flagged": false}, ...]}
    GET  /health   -> what it scores with

`score` ranks transactions, and `calibrated` is the probability of fraud (null where the run has no calibration).
`threshold` and `flagged` follow the thresholds that were stored in the run when this server started, as the command
`score` does: a bank may have its own.

Rows have the columns that the run's schema names, and come in the order of time. A row that the schema drops has no
score. A request that is refused (422) changes nothing. A row that is dated more than 24 hours after now (--ahead-hours)
is refused: if it were taken, all rows with the right time would be refused as earlier than the last row. Times without
an offset count as UTC: where all times are in UTC, one hour is enough. One process serves one run, because a row's
features depend on the rows before it.

This server listens on 127.0.0.1 and speaks plain HTTP: it knows neither TLS nor users. Put a gateway in front that does
(fl/flower/deploy/nginx/gateway.conf shows TLS 1.3 with client certificates), and let it limit the size of a request.
"""

import argparse
from pathlib import Path
from typing import Annotated

import pandas as pd
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

import fl
from fl.errors import FederationError
from fl.runs.live import AHEAD_HOURS, LiveScorer
from secagg import protect_process

MOST_ROWS = 10_000  # in a request


class Request(BaseModel):
    """Transactions in the order of time, by column of the schema."""

    model_config = ConfigDict(extra="forbid")
    rows: Annotated[list[dict[str, str | int | float | bool | None]], Field(max_length=MOST_ROWS)]


class Score(BaseModel):
    """Of one row. row: its position in the request. threshold: that of its bank. flagged: at or above the threshold."""

    row: int
    bank: str
    score: float
    calibrated: float | None
    threshold: float
    flagged: bool


class Answer(BaseModel):
    """Scores of the rows that the schema does not drop. threshold: of all banks that have none of their own."""

    threshold: float
    scores: list[Score]


def service(run: fl.Run, history: Path | None = None, ahead_hours: float = AHEAD_HOURS) -> FastAPI:
    """The service for one finished run."""
    scorer = LiveScorer(run.model, history, ahead_hours=ahead_hours)
    limits = run.model.thresholds
    app = FastAPI(title="fraud scores", docs_url=None, redoc_url=None)

    @app.post("/score")
    def score(request: Request) -> Answer:
        if not request.rows:
            return Answer(threshold=run.threshold, scores=[])
        try:
            scored = scorer.score(pd.DataFrame(request.rows))
        except FederationError as fault:
            raise HTTPException(422, f"{type(fault).__name__}: {fault}") from None
        except UnicodeError:  # half of a surrogate pair, which JSON can write and no text holds
            raise HTTPException(422, "expected text, got a character that is half of another one") from None
        probable = [None] * len(scored.score) if scored.calibrated is None else scored.calibrated.tolist()
        columns = (scored.index.tolist(), scored.bank.tolist(), scored.score.tolist(), scored.flagged.tolist())
        each = (
            Score(row=i, bank=b, score=s, calibrated=p, threshold=limits.get(b, run.threshold), flagged=f)
            for i, b, s, f, p in zip(*columns, probable, strict=True)
        )
        return Answer(threshold=run.threshold, scores=sorted(each, key=lambda one: one.row))

    @app.get("/health")
    def health() -> dict[str, str | float | int | dict[str, float]]:
        told = {"run": run.folder.name, "threshold": run.threshold, "inputs": len(run.model.features)}
        return {**told, "thresholds": dict(limits), "ahead_hours": scorer.ahead_hours}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--history", type=Path, help="labelled transactions from before, csv or parquet")
    parser.add_argument("--ahead-hours", type=float, default=AHEAD_HOURS, help="how far after now a row may be dated")
    parser.add_argument("--port", type=int, default=8080, help="on 127.0.0.1")
    given = parser.parse_args()
    protect_process()
    try:
        app = service(fl.load(given.run), given.history, given.ahead_hours)
    except FederationError as fault:
        parser.exit(1, f"{type(fault).__name__}: {fault}\n")
    uvicorn.run(app, host="127.0.0.1", port=given.port, access_log=False)


if __name__ == "__main__":
    main()
