"""`demos enrol`: make identities and the enrolment list, and compare the list, offline before the first round.

`secagg.identity` and `secagg.enrolment` do all the work. A private key never leaves its file. The parties exchange
public entries and then the list, and read its fingerprint to each other.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Any

import click

from demos.console import err, out, print_json, table
from demos.options import JSON, FilePath, ranged
from fl import options
from secagg.enrolment import Enrolment, load_public_entry, public_entry, save_public_entry
from secagg.errors import EnrolmentError
from secagg.identity import Identity, Member

PASSPHRASE = "SECAGG_PASSPHRASE"

_FILE = FilePath()


@click.group()
def enrol() -> None:
    """Make identities and the enrolment list, offline.

    \b
    python -m demos enrol key --organisation "Key Holder" --out keyholder.key
    python -m demos enrol key --organisation Aggregator --out aggregator.key
    python -m demos enrol key --organisation "Bank A" --out bank-a.key
    python -m demos enrol key --organisation "Bank B" --out bank-b.key
    python -m demos enrol key --organisation "Bank C" --out bank-c.key
    python -m demos enrol list --key-holder keyholder.key.public --aggregator aggregator.key.public \\
        --client bank-a.key.public --client bank-b.key.public --client bank-c.key.public --out enrolment.json
    python -m demos enrol check enrolment.json

    Each party makes its own key and hands over the `.public` file. Then everyone checks the list on their own machine
    and reads the fingerprint to the others by telephone or in person. Different fingerprints mean different lists.
    """


@enrol.command()
@ranged("--organisation", options.Text("a name"), "Name by which the other parties know this one.", required=True)
@click.option(
    "--out", "file", required=True, type=_FILE, help="File for the identity. It is private and gets mode 600."
)
@click.option("--public", type=_FILE, help="File for the public entry, to hand over.  [default: OUT.public]")
@JSON
def key(organisation: str, file: Path, public: Path | None, as_json: bool) -> None:
    """Make an identity and print its public entry.

    If the environment variable SECAGG_PASSPHRASE is set, the private key is encrypted with it (scrypt, AES-256-GCM).
    Every later use of the key needs the same passphrase.

    \b
    python -m demos enrol key --organisation "Bank D" --out bank-d.key
    """
    public = Path(f"{file}.public") if public is None else public
    if public.exists():
        raise EnrolmentError(f"{public} exists: hand that file over, or choose another name with --public")
    secret = passphrase()
    identity = Identity.generate(organisation)
    identity.save(file, secret)
    save_public_entry(identity, public)
    entry: dict[str, Any] = public_entry(identity)
    if as_json:
        print_json({**entry, "identity": str(file), "public": str(public), "encrypted": secret is not None})
        return
    print_json(entry)
    protection = "encrypted" if secret is not None else f"not encrypted: set {PASSPHRASE} to encrypt it"
    err.print(f"private key in {file} ({protection}); hand over {public}", soft_wrap=True)


@enrol.command(name="list")
@click.option("--key-holder", required=True, type=_FILE, help="Public entry of the party that decrypts.")
@click.option("--aggregator", required=True, type=_FILE, help="Public entry of the party that adds.")
@click.option(
    "--client", "clients", required=True, multiple=True, type=_FILE, help="Public entry of a bank. Can be repeated."
)
@click.option("--out", "file", required=True, type=_FILE, help="File for the enrolment list, which every party gets.")
@JSON
def make_list(key_holder: Path, aggregator: Path, clients: tuple[Path, ...], file: Path, as_json: bool) -> None:
    """Make the enrolment list from public entries and print its fingerprint.

    \b
    python -m demos enrol list --key-holder keyholder.key.public --aggregator aggregator.key.public \\
        --client bank-a.key.public --client bank-b.key.public --out two-banks.json
    """
    enrolment = Enrolment.of(
        load_public_entry(key_holder), load_public_entry(aggregator), [load_public_entry(each) for each in clients]
    )
    enrolment.save(file)
    _show(enrolment, file, as_json)


@enrol.command()
@click.argument("file", type=_FILE)
@ranged(
    "--fingerprint",
    options.Text("a fingerprint", empty=True),
    "Fingerprint that another party read out, to compare with this list's. Blanks are ignored.",
)
@JSON
def check(file: Path, fingerprint: str | None, as_json: bool) -> None:
    """Verify an enrolment list, and print its fingerprint or compare it with another.

    \b
    python -m demos enrol check enrolment.json
    """
    enrolment = Enrolment.load(file)
    if fingerprint is not None:
        spoken = "".join(fingerprint.split()).lower()
        if not hmac.compare_digest(spoken.encode(), enrolment.fingerprint.encode()):
            raise EnrolmentError(
                f"{file}: its fingerprint is {_groups(enrolment.fingerprint)}, not the one given: the parties hold "
                "different lists. Find out who made which list before any round."
            )
    _show(enrolment, file, as_json, compared=fingerprint is not None)


def passphrase() -> bytes | None:
    """The value of SECAGG_PASSPHRASE, or None if it is not set. `Identity.save` refuses an empty one."""
    value = os.environ.get(PASSPHRASE)
    return None if value is None else os.fsencode(value)


def _show(enrolment: Enrolment, file: Path, as_json: bool, compared: bool = False) -> None:
    roles = [("key holder", enrolment.key_holder), ("aggregator", enrolment.aggregator)]
    roles += [("client", client) for client in enrolment.clients]
    if as_json:
        print_json(
            {
                "file": str(file),
                "session": enrolment.session.hex(),
                "fingerprint": enrolment.fingerprint,
                "compared": compared,
                "members": [{"role": role, **_member(member)} for role, member in roles],
            }
        )
        return
    rows = [(role, member.organisation, member.key.hex()[:16]) for role, member in roles]
    out.print(table(f"Enrolment list {file}", "role", "organisation", "key", rows=rows))
    verdict = "equal to the one given" if compared else "read it to the other parties"
    out.print(f"fingerprint ({verdict}):\n{_groups(enrolment.fingerprint)}")


def _member(member: Member) -> dict[str, str]:
    return {"organisation": member.organisation, "key": member.key.hex()}


def _groups(fingerprint: str) -> str:
    """A fingerprint in groups of four characters, so that it can be read aloud."""
    return " ".join(fingerprint[i : i + 4] for i in range(0, len(fingerprint), 4))
