"""How long an encrypted run waits for each kind of answer, and how often it tries a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fl import options
from fl.flower.errors import SettingsError


@dataclass(frozen=True)
class WaitLimits:
    """Seconds to wait for each kind of answer, and how often a round is tried. A SuperNode looks for work every 3 s."""

    ready_s: Annotated[float, options.WAIT] = 60.0  # for key holder and banks to appear
    call_s: Annotated[float, options.WAIT] = 30.0  # a call without work behind it
    train_s: Annotated[float, options.WAIT] = 600.0  # join: training included
    contribute_s: Annotated[float, options.WAIT] = 120.0  # seal, answer; training anew after a changed roster included
    release_s: Annotated[float, options.WAIT] = 120.0  # verify, decrypt, check
    part_s: Annotated[float, options.WAIT] = 60.0  # one part of a large message
    # For a key holder that restarts in the middle of a release; Flower needs a minute.
    recover_s: Annotated[float, options.WAIT] = 180.0
    attempts: Annotated[int, options.ATTEMPTS] = 3

    def __post_init__(self) -> None:
        options.check(self, SettingsError, "run configuration: ")
