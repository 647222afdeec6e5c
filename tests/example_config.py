"""One run's configuration, valid in every field."""

from __future__ import annotations

from fl.counts.settings import StatisticsSettings
from fl.runs.config import AggregationSettings, DataSettings, PrivacySettings, RunConfig
from fl.runs.styles import OPEN, PRIVATE

EXAMPLE_CONFIG = RunConfig(
    seed=1,
    rounds=2,
    device="cpu",
    threads=1,
    with_baselines=False,
    data=DataSettings("simulated", clients=3, customers=200, fraud_share=0.05),
    model=PRIVATE.model,
    training=PRIVATE.training,
    aggregation=AggregationSettings(),
    privacy=PrivacySettings(3.0, 1e-5, 0.25, 2, 1.0, 2048.0),
    baseline_model=OPEN.model,
    baseline_training=OPEN.training,
    statistics=StatisticsSettings(1),
)
