"""The command line: `python -m demos` or `secagg-demo`. Each command lives in a module of its own, loaded when used."""

from __future__ import annotations

import importlib

from fl.extras import advice

try:
    import click

    from demos.console import errors_as_advice
except ModuleNotFoundError as absent:
    raise SystemExit(advice(absent)) from None  # on stderr, with exit code 1

_COMMANDS = {
    "round": ("demos.round", "round_command", "play one encrypted round on random updates and check the result"),
    "train": ("demos.train", "train", "train a fraud model at several banks, with baselines for comparison"),
    "evaluate": ("demos.evaluate", "evaluate", "examine a finished run: calibration, drift, groups, features"),
    "ablate": ("demos.ablate", "ablate", "train again with one component less at a time, to see what each is worth"),
    "card": ("demos.card", "card", "draft the model card and the data-protection impact assessment of a run"),
    "budget": ("demos.budget", "budget", "show what each bank has spent of its epsilon and what is left"),
    "curve": ("demos.curve", "curve", "train at several epsilons and compare the fraud found"),
    "plan": ("demos.plan", "plan_command", "show what a round would cost, and why"),
    "schema": ("demos.schema", "schema", "draft or check the schema file of a csv file"),
    "score": ("demos.score", "score", "score new transactions with a trained model"),
    "threshold": ("demos.threshold", "threshold", "choose from which score on a transaction is an alert"),
    "export": ("demos.export", "export", "write a trained model as an ONNX or XGBoost file, for other systems"),
    "attack": ("demos.attack", "attack", "play known attacks against stock CKKS and against this project"),
    "enrol": ("demos.enrol", "enrol", "make identities and the enrolment list, offline"),
    "network": ("demos.network", "network", "play encrypted rounds between real processes, over Flower and TLS"),
    "assist": ("demos.assist", "assist", "use language models behind a privacy gateway; offline unless asked"),
    "ledger": ("demos.ledger", "ledger", "drop old releases from the ledger of a key holder"),
    "audit": ("demos.audit", "audit", "verify the ledger of a key holder, offline"),
}


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs: `plan` does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Try encrypted federated aggregation, and federated fraud detection on top of it.

    \b
    python -m demos round --clients 8 --length 100000
    python -m demos train --data simulated --no-dp
    python -m demos COMMAND --help
    """


def main() -> None:
    """Run the command line; an expected error becomes one line of advice and exit code 1, wrong usage exit code 2."""
    try:
        from fl.errors import FederationError
        from secagg.errors import SecAggError
        from secagg.protection import protect_process
    except ModuleNotFoundError as absent:
        raise SystemExit(advice(absent)) from None

    with errors_as_advice(SecAggError, FederationError):
        protect_process()  # for every command, since most of them hold keys or single updates
        cli(prog_name="python -m demos")


if __name__ == "__main__":
    main()
