"""`demos ledger prune`: old releases go, the last ones and the chain stay, and a wrong file or key changes nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from demos.audit import audit
from demos.ledger import ledger as command
from fl import options
from secagg.errors import IdentityError, LedgerError, ReleasePruned
from secagg.eventlog import Content
from secagg.identity import Identity
from secagg.ledger import LEAST_KEPT, Ledger, audit_ledger

MODEL = bytes(32)


@pytest.fixture
def files(tmp_path) -> Path:
    """ledger.db with 13 releases of 50 kB, and the identities of its owner, in the clear and encrypted."""
    owner = Identity.generate("key holder")
    owner.save(tmp_path / "owner.key")
    owner.save(tmp_path / "encrypted.key", b"secret words")
    Identity.generate("key holder").save(tmp_path / "other.key")
    ledger = Ledger(tmp_path / "ledger.db", owner)
    for step in range(1, 14):
        name, hashed, sums = (step, MODEL, step.to_bytes(16, "little")), bytes(32), bytes([step]) * 50_000
        ledger.opened(*name, hashed, bytes(234))
        ledger.roster_closed(*name, hashed, b"")
        ledger.consumed(*name, hashed)
        ledger.released(*name, hashed, b"head", Content(sums, hashlib.sha256(sums).digest()), b"tail")
    ledger.close()
    return tmp_path


def run(*arguments: object, **environment: str):
    return CliRunner(env=environment).invoke(command, ["prune", *map(str, arguments)])


def test_old_releases_are_dropped_and_the_ledger_verifies(files):
    path, key = files / "ledger.db", files / "owner.key"
    before = audit_ledger(path)
    told = json.loads(run(path, "--identity", key, "--keep", 11, "--json").stdout)
    assert told["dropped"] == 2 and told["bytes_after"] < told["bytes_before"] - 80_000
    assert audit_ledger(path).steps == before.steps
    assert "13 decryptions, 2 releases dropped; head" in CliRunner().invoke(audit, [str(path)]).stdout
    ledger = Ledger(path, Identity.load(key))
    assert ledger.stored_release(3) == b"head" + bytes([3]) * 50_000 + b"tail"
    with pytest.raises(ReleasePruned):
        ledger.stored_release(2)
    ledger.close()
    assert "1 release dropped; 0.6 MB before, 0.5 MB now" in run(path, "--identity", key, "--keep", 10).stdout
    assert "0 releases dropped" in run(path, "--identity", key).stdout


def test_an_encrypted_identity_takes_its_passphrase_from_the_environment(files):
    arguments = (files / "ledger.db", "--identity", files / "encrypted.key", "--json")
    assert json.loads(run(*arguments, SECAGG_PASSPHRASE="secret words").stdout)["dropped"] == 0
    assert isinstance(run(*arguments).exception, IdentityError)


def test_what_is_not_this_key_holders_ledger_is_refused_and_stays_as_it_is(files):
    path, content = files / "ledger.db", (files / "ledger.db").read_bytes()
    assert isinstance(run(path, "--identity", files / "other.key").exception, LedgerError)
    missing = run(files / "none.db", "--identity", files / "owner.key")
    assert isinstance(missing.exception, LedgerError) and "no such ledger" in str(missing.exception)
    assert not (files / "none.db").exists()
    assert path.read_bytes() == content


@pytest.mark.parametrize("keep", ["9", "0", "-1", "many"])
def test_fewer_than_the_floor_is_wrong_usage(files, keep):
    result = run(files / "ledger.db", "--identity", files / "owner.key", "--keep", keep)
    assert result.exit_code == 2 and "from 10 to" in result.stderr
    assert options.RELEASES_KEPT.low == LEAST_KEPT
