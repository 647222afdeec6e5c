"""Every error that the benchmark suite raises on purpose. Messages say what was expected, what was got, what to do."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Base of the suite's errors."""


class BenchmarkSettingsError(BenchmarkError):
    """The run cannot be carried out as requested."""


class CaseNotRunnable(BenchmarkError):
    """A case cannot run here (a missing package, no device, a size above its limit). It is listed as not run."""


class WrongResult(BenchmarkError):
    """A case computed something other than the mean of the updates. Its times are dropped."""


class UnreadableResults(BenchmarkError):
    """A file is not a results file of this version."""


class ResumeMismatch(BenchmarkError):
    """The run to be resumed was started with other settings, with other code or on another machine."""


class UnlikeMachines(BenchmarkError):
    """Two results come from different machines, so their times cannot be compared."""


class NothingInCommon(BenchmarkError):
    """Two results have no measurement in common."""
