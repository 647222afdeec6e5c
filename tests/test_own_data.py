"""Three foreign files: a draft, then train, score, evaluate and card without an edit, and as good as a hand-made schema."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from demos.card import card
from demos.evaluate import evaluate
from demos.schema import schema
from demos.score import score
from demos.train import train
from tests.foreign_files import FOREIGN, Foreign

EFFORT = ("--no-dp", "--no-baselines", "--rounds", "3", "--local-epochs", "2")
UNDATED = ("per day", "a day", "test days", "the first alert")
