"""A temporary certificate authority and node keys, for a network on one machine.

In a real deployment, certificates come from the operator's own authority (fl/flower/deploy). Everything here is
elliptic-curve: P-256 for TLS (RFC 8446), P-384 for SuperNode authentication, which is what Flower expects.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl.durable import replace_durably

LOCALHOST = "127.0.0.1"
_LIFE = timedelta(days=2)
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class ThrowAwayAuthority:
    """An authority whose private key never leaves this process's memory. folder: where PEM files go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away authority")])
        now = datetime.now(UTC)
        certificate = (
            _builder(self._name, self._name, self._key.public_key(), now - _SKEW, now + _LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.root = folder / "ca.pem"
        replace_durably(self.root, certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, *, expired: bool = False) -> Pair:
        """A server certificate for 127.0.0.1 and localhost."""
        alternatives = [x509.IPAddress(ipaddress.ip_address(LOCALHOST)), x509.DNSName("localhost")]
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, alternatives, expired)

    def client(self, name: str, *, expired: bool = False) -> Pair:
        """A client certificate for the gateway."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, [x509.DNSName(name)], expired)

    def _issue(
        self, name: str, usage: x509.ObjectIdentifier, alternatives: list[x509.GeneralName], expired: bool
    ) -> Pair:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        start, end = (now - _LIFE, now - _SKEW) if expired else (now - _SKEW, now + _LIFE)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, self._name, key.public_key(), start, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        replace_durably(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        write_private(pair.key, _private_pem(key, serialization.PrivateFormat.PKCS8))
        return pair


def new_node_key(folder: Path) -> tuple[Path, Path]:
    """A SuperNode's key pair: (private key in OpenSSH's format, mode 600; public key to register)."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / "node.key", folder / "node.pub"
    write_private(private, _private_pem(key, serialization.PrivateFormat.OpenSSH))
    shown = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    replace_durably(public, shown + b"\n")
    return private, public


def write_private(path: Path, data: bytes) -> None:
    """A file that only this user may read; never over an existing one."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
