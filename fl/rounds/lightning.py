"""Train locally with PyTorch Lightning: the same model and rows with the user's own Trainer.

What it does: `FraudModule` is the fraud model as a LightningModule, `FraudData` one bank's rows as a
LightningDataModule, and `trained_update` turns the result of a Trainer into the update that is encrypted. The user
chooses callbacks, loggers, precision and devices, and must keep what they write at the bank: it contains figures of
the bank's rows.

    module, data = FraudModule(inputs, local, seed=0), FraudData(bank, local, seed=0)
    update = trained_update(module, data, Trainer(max_epochs=local.epochs), start=global_model)

With the defaults, without dropout and on a CPU, the steps equal those of `fl.learning.training.train_seeded` bit for
bit.

What it leaves to others: encryption and rounds (`fl.secure.session`, `fl.rounds.play`), and differential privacy. The
user configures the steps of a Trainer, so the accountant cannot account for them. Private training is
`fl.learning.training.train_private`; no epsilon covers training with this module.

Source: Lightning 2 (lightning.ai/docs/pytorch/stable), LightningModule and LightningDataModule. Extra: `lightning`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics.classification import BinaryAveragePrecision

from fl.data.federation import BankData, Rows
from fl.errors import TrainingError
from fl.learning.model import DROPOUT, PRIOR, build_model, flatten, unflatten
from fl.learning.proximal import add_proximal_gradient, anchor_of
from fl.learning.training import LocalTraining, derive_seed, optimiser_of, weighted_loss
from fl.rounds.algorithms.state import Vector

Batch = tuple[torch.Tensor, torch.Tensor]  # float32[n, inputs], float32[n]
SCORING_BATCH = 4096  # rows


class FraudModule(LightningModule):
    """The fraud model: float32[n, inputs] -> float32[n] logits.

    `seed`: of the first weights, as in `fl.rounds.play.Schedule`. `proximal`: FedProx' mu, the weight
    of the distance to the model that a fit started from.
    """

    def __init__(
        self,
        inputs: int,
        local: LocalTraining,
        *,
        seed: int,
        dropout: float = DROPOUT,
        prior: float = PRIOR,
        proximal: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = build_model(inputs, seed=derive_seed(seed, "model"), dropout=dropout, prior=prior)
        self.local = local
        self.proximal = proximal
        self.precision_of = nn.ModuleDict({"validation": BinaryAveragePrecision(), "test": BinaryAveragePrecision()})
        self._anchor: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x).reshape(-1)
        return logits

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        x, y = batch
        return weighted_loss(self.model, x, y, self.local.pos_weight, "mean")

    def on_train_start(self) -> None:
        self._anchor = anchor_of(self.model)

    def on_after_backward(self) -> None:
        add_proximal_gradient(self.model, self._anchor, self.proximal)

    def validation_step(self, batch: Batch, _: int) -> None:
        self._measure("validation", batch)

    def test_step(self, batch: Batch, _: int) -> None:
        self._measure("test", batch)

    def predict_step(self, batch: Batch, _: int) -> torch.Tensor:
        """Fraud probabilities, float64[n]."""
        return torch.sigmoid(self(batch[0]).double())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimiser_of(self.model, self.local)

    def _measure(self, part: str, batch: Batch) -> None:
        x, y = batch
        metric = self.precision_of[part]
        # torchmetrics as a submodule: torch types attributes of modules as Tensor or Module.
        metric.update(self(x), y.int())  # type: ignore[operator]
        self.log(f"{part}_average_precision", metric, on_step=False, on_epoch=True)  # type: ignore[arg-type]


class FraudData(LightningDataModule):
    """One bank's rows: train, validation, and all test windows as loaders of their own.

    Batches have the order of `train_seeded(seed=seed)`. `seed`: such as
    `derive_seed(run_seed, "batches", bank.name, number)`, another one for every round.
    """

    def __init__(self, bank: BankData, local: LocalTraining, *, seed: int) -> None:
        super().__init__()
        if len(bank.train) == 0:
            raise TrainingError(f"{bank.name}: there are no training rows: check the partition and the training period")
        self.bank = bank
        self._order = ShuffledBatches(len(bank.train), local.batch_size, seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        return _loader(self.bank.train, self._order)

    def val_dataloader(self) -> DataLoader[Batch]:
        return _loader(self.bank.validation, StraightBatches(len(self.bank.validation)))

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return [_loader(rows, StraightBatches(len(rows))) for rows in self.bank.test]


class ShuffledBatches(Sampler[list[int]]):
    """`rows` positions in batches of `batch_size`, in a new order for every epoch, the same for equal seeds."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self._rows, self._batch_size = rows, batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self._rows, generator=self._generator)
        return iter([part.tolist() for part in torch.split(order, self._batch_size)])

    def __len__(self) -> int:
        return -(-self._rows // self._batch_size)


class StraightBatches(Sampler[list[int]]):
    """`rows` positions in their order."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self._rows, SCORING_BATCH):
            yield list(range(start, min(start + SCORING_BATCH, self._rows)))

    def __len__(self) -> int:
        return -(-self._rows // SCORING_BATCH)


class _Table(Dataset[Batch]):
    """Rows by batch: one index selects many rows."""

    def __init__(self, rows: Rows) -> None:
        self._x, self._y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(positions)
        return self._x[chosen], self._y[chosen]

    def __len__(self) -> int:
        return len(self._y)


def _loader(rows: Rows, order: Sampler[list[int]]) -> DataLoader[Batch]:
    # Its own generator: with torch's global one, a loader would change the user's dropout masks.
    return DataLoader(_Table(rows), sampler=order, batch_size=None, generator=torch.Generator())


def trained_update(module: FraudModule, data: LightningDataModule, trainer: Trainer, *, start: Vector) -> Vector:
    """Fit `module` with `trainer` from the global model `start`, float32[length]; return what training changed.

    `trainer`: a new one for every round, since a Trainer counts its epochs over all fits. Raises `TrainingError`
    when it took no step or the weights stopped being finite, `ModelError` for a vector of another model.
    """
    unflatten(module.model, start)
    before = trainer.global_step
    trainer.fit(module, datamodule=data)
    if trainer.global_step == before:
        raise TrainingError(
            "expected a Trainer that takes steps, got one that took none: make a new Trainer for every round, since it "
            "counts epochs over all fits"
        )
    update = flatten(module.model) - start
    if not np.isfinite(update).all():
        raise TrainingError("training diverged: weights are NaN or infinite; lower the learning rate")
    return update
