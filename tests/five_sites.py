"""Made-up payments of five sites: numbers over six decades, and two frauds that no single column shows.

One kind of fraud is paid minutes after the order instead of days, the other one far from home. Both times and both
places look like everybody's. Some frauds have no label (`thinned`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

SITES = 5
DAYS = 60
DAY_S = 86_400
FRAUD_SHARE = 0.03
WAITED = "ORDERED_AT_TO_PAID_AT"  # as a draft names it
AWAY = "DISTANCE_HOME"


def five_sites(rows: int, seed: int = 0, thinned: float = 0.0) -> pd.DataFrame:
    """`rows` payments of each site, in time order. `thinned`: share of frauds that are labelled as genuine."""
    rng = np.random.default_rng(seed)
    payments = pd.concat([_site(site, rows, rng) for site in range(SITES)])
    payments = payments.sort_values("PAID_AT", kind="stable").reset_index(drop=True)
    unseen = (payments.FRAUD == 1) & (rng.random(len(payments)) < thinned)
    payments.loc[unseen, "FRAUD"] = 0
    return payments


def _site(site: int, n: int, rng: np.random.Generator) -> pd.DataFrame:
    paid = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.integers(0, DAYS * DAY_S, n)), unit="s")
    kind = rng.random(n)
    early, away = kind < FRAUD_SHARE / 2, (kind >= FRAUD_SHARE / 2) & (kind < FRAUD_SHARE)
    waited = np.exp(rng.normal(np.log(2 * DAY_S), 0.9, n))
    waited[early] = np.exp(rng.normal(np.log(300), 0.8, int(early.sum())))
    degrees = np.exp(rng.normal(np.log(0.05), 0.9, n))
    degrees[away] = np.exp(rng.normal(np.log(4.0), 0.5, int(away.sum())))
    latitude, longitude, angle = rng.uniform(40, 55, n), rng.uniform(-5, 20, n), rng.uniform(0, 2 * np.pi, n)
    return pd.DataFrame(
        {
            "PAID_AT": paid.strftime("%Y-%m-%d %H:%M:%S"),
            "ORDERED_AT": (paid - pd.to_timedelta(waited, unit="s")).strftime("%Y-%m-%d %H:%M:%S"),
            "SITE": f"site-{site + 1}",
            "AMOUNT": np.exp(rng.normal(np.log(100), 2.0, n)).round(2) + 0.01,
            "VOLUME": np.exp(rng.normal(np.log(300), 2.0, n)).round(4),
            "BALANCE": np.exp(rng.normal(np.log(1000), 2.2, n)).round(4),
            "ACTIVITY": np.exp(rng.normal(np.log(50), 2.0, n)).round(4),
            "LATITUDE": (latitude + degrees * np.sin(angle)).clip(-89, 89).round(6),
            "LONGITUDE": (longitude + degrees * np.cos(angle)).round(6),
            "HOME_LATITUDE": latitude.round(6),
            "HOME_LONGITUDE": longitude.round(6),
            "CURRENCY": rng.choice(["EUR", "GBP", "CHF"], n),
            "FRAUD": (early | away).astype(int),
        }
    )
