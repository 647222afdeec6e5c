"""No key, seed or plaintext in a repr, a pickle, a copy, a log line or an exception. Found by planting markers."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import traceback
import warnings
from contextlib import suppress

import numpy as np
import pytest
from simulator import MODEL, Federation, Peers

import secagg
from secagg import masks
from secagg.ckks import SecretKey, generate_keys
from secagg.errors import IdentityError, SecAggError
from secagg.identity import Identity
from secagg.parameters import ALLOWED
from secagg.secrecy import Secret

SEED = b"SEED-MARKER-0123456789-SEED-0123"
VALUE = 0.7316502914  # as plaintext: its digits, its bytes and its quantised integer are looked for


class Held:
    """A round in flight whose every secret is known to the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(masks, "new_seed", lambda: SEED)
        self.federation = Federation(clients=2)
        self.peers = Peers(self.federation)
        self.update = np.full(self.federation.plan.length, VALUE)
        self.offer, self.roster = self.peers.roster(1)
        self.identity = self.federation.banks[0]
        self.client = self.peers.clients[0]
        self.key_holder = self.peers.key_holder
        self.client_round, self.key_holder_round = self.client._round, self.key_holder._round
        self.term = masks.MaskTerm(SEED, negative=False)
        self.stream = masks.MaskStream([self.term], self.federation.plan.params)
        self.objects: list[Secret | SecretKey] = [
            self.identity,
            self.client,
            self.key_holder,
            self.client_round,
            self.key_holder_round,
            self.client_round.agreement,
            self.key_holder_round.secret_key,
            self.term,
            self.stream,
        ]

    def markers(self) -> list[bytes]:
        private = [
            self.identity._private_key.private_bytes_raw(),
            self.client_round.agreement._private_key.private_bytes_raw(),
            self.key_holder_round.agreement._private_key.private_bytes_raw(),
            SEED,
        ]
        quantised = int(self.federation.quantised(self.update)[0])
        texts = [repr(VALUE), str(VALUE)[:7], str(quantised), repr(SEED)]
        found = [*private, *(key.hex().encode() for key in private), *(repr(key).encode() for key in private)]
        return [*found, np.float64(VALUE).tobytes(), *(text.encode() for text in texts)]


@pytest.fixture
def held(monkeypatch) -> Held:
    return Held(monkeypatch)


def assert_hidden(held: Held, shown: str | bytes) -> None:
    data = shown.encode(errors="surrogateescape") if isinstance(shown, str) else shown
    for marker in held.markers():
        assert marker not in data, f"{marker[:12]!r} shows"


def test_the_search_finds_a_marker_that_shows(held):
    for marker in held.markers():
        with pytest.raises(AssertionError, match="shows"):
            assert_hidden(held, b"some " + marker + b" text")


def test_repr_str_and_format_omit_keys_seeds_and_plaintext(held):
    for thing in held.objects:
        assert_hidden(held, repr(thing) + str(thing) + f"{thing}")
    contribution = held.client.contribute(held.roster, held.update)
    for message in (held.offer, held.roster, contribution):
        assert_hidden(held, repr(message))


def test_neither_pickle_nor_copy_takes_a_secret_along(held):
    for thing in held.objects:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            sink = io.BytesIO()
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dump(thing, sink, protocol)
            assert_hidden(held, sink.getvalue())  # nor does a part of it get out before the refusal
        for duplicate in (copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled"):
                duplicate(thing)


def test_a_secret_inside_something_else_is_not_pickled_either(held):
    for container in ([held.client_round], {"round": held.key_holder_round}, (held.term,)):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(container)


def test_errors_and_their_tracebacks_show_no_secret(held):
    """Every call that can fail is made to fail, and everything that would be printed is searched."""
    peers, shown = held.peers, []
    too_long = np.full(held.federation.plan.length + 1, VALUE)
    not_finite = held.update.copy()
    not_finite[-1] = np.nan
    contribution = held.client.contribute(held.roster, held.update)
    calls = [
        lambda: held.client.contribute(held.roster, held.update),
        lambda: held.client.join(held.offer, MODEL),
        lambda: peers.clients[1].contribute(held.roster, too_long),
        lambda: peers.clients[1].contribute(held.roster, not_finite),
        lambda: peers.clients[1].contribute(held.roster, held.update.astype(int)),
        lambda: peers.clients[1].contribute(held.roster, held.update, 7),
        lambda: peers.aggregator.receive(contribution),
        lambda: held.key_holder.open(2, MODEL),
        lambda: held.key_holder.receive_join(None),
        lambda: held.key_holder.release(contribution),
        lambda: masks.open_seed(bytes(48), held.key_holder_round.agreement, bytes(32), bytes(32), bytes(32)),
        lambda: masks.open_seed(bytes(48), held.key_holder_round.agreement, b"\x09" + bytes(31), bytes(32), bytes(32)),
        lambda: held.client_round.agreement.shared_with(bytes(32)),
    ]
    for call in calls:
        try:
            call()
        except (SecAggError, AttributeError) as error:
            shown.append("".join(traceback.format_exception(error)) + repr(error) + repr(error.args))
    assert len(shown) == len(calls)
    for text in shown:
        assert_hidden(held, text)


def test_a_reused_update_is_named_without_its_values(held):
    held.client.contribute(held.roster, held.update)
    for role in (held.key_holder, *held.peers.clients):
        role.abort()
    _, roster = held.peers.roster(2)
    with pytest.raises(secagg.errors.UpdateReused) as caught:
        held.client.contribute(roster, held.update)
    assert_hidden(held, "".join(traceback.format_exception(caught.value)))


def test_an_identity_file_that_does_not_load_keeps_its_content_to_itself(held, tmp_path):
    file = tmp_path / "key"
    held.identity.save(file)
    whole = file.read_text()
    for damaged in (
        whole[:-3],
        whole + "}",
        whole.replace('"organisation"', '"organisation'),
        whole.replace("secagg", "x"),
    ):
        file.write_text(damaged)
        with pytest.raises(IdentityError) as caught:
            Identity.load(file)
        chain: BaseException | None = caught.value
        while chain is not None:  # a JSON error would carry the whole document as an attribute
            assert_hidden(held, str(vars(chain)) + repr(chain.args) + "".join(traceback.format_exception(chain)))
            chain = chain.__cause__ or chain.__context__


def test_a_round_writes_nothing_to_logs_warnings_or_standard_streams(held, caplog, capfd):
    with caplog.at_level(logging.NOTSET), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        aggregator = held.peers.aggregator
        aggregator.open(held.offer, held.roster)
        for client in held.peers.clients:
            aggregator.receive(client.contribute(held.roster, held.update))
        held.key_holder.release(aggregator.close())
        with suppress(SecAggError):
            held.key_holder.open(1, MODEL)
    out, err = capfd.readouterr()
    assert (caplog.text, out, err, [str(each.message) for each in warned]) == ("", "", "", [])


def test_ledgers_and_journals_hold_no_key_seed_or_update(monkeypatch, tmp_path):
    held = Held(monkeypatch)
    held.federation.folder = tmp_path
    peers = Peers(held.federation)
    offer = peers.key_holder.open(1, MODEL)
    for client in peers.clients:
        peers.key_holder.receive_join(client.join(offer, MODEL))
    state, rounds = peers.key_holder._round, [client._round for client in peers.clients]
    roster = peers.key_holder.close_roster()
    for number, client in enumerate(peers.clients):
        client.contribute(roster, held.update + number * 1e-3)
    written = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert offer.header.round_id in written  # the search does read what was written
    assert_hidden(held, written)
    for each in (state, *rounds):
        assert each.agreement._private_key.private_bytes_raw() not in written


def test_a_decrypted_plaintext_touches_no_disk(monkeypatch, tmp_path):
    """Without memory files SEAL could only save to a disk; then residues are read one by one instead."""
    import os
    import tempfile

    from secagg import ckks

    public, secret = generate_keys(ALLOWED[0])
    block = np.ones((2, len(ALLOWED[0].primes), ALLOWED[0].degree), dtype=np.uint32)
    expected = secret.decrypt(block)
    saved: list[str] = []
    honest = ckks._save
    monkeypatch.setattr(ckks, "_has_memory_files", lambda: False)
    monkeypatch.setattr(ckks, "_save", lambda source: saved.append(type(source).__name__) or honest(source))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert (secret.decrypt(block) == expected).all()
    assert "Plaintext" not in saved
    assert os.listdir(tmp_path) == []
    assert public.residues.dtype == np.uint64
