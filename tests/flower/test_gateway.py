"""The nginx configurations that fl/flower/deploy ships, with nginx as the distribution has it.

TLS 1.2 is refused, TLS 1.3 without a client certificate is refused, and with one a whole round goes through.
"""

from __future__ import annotations

import http.client
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fl.flower.certificates import LOCALHOST, Pair, ThrowAwayAuthority
from fl.flower.local_network import KEY_HOLDER, LocalNetwork
from fl.flower.local_parties import LocalParties
from fl.flower.processes import Processes, free_port
from fl.flower.settings import PlanSettings

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHIPPED = ROOT / "fl" / "flower" / "deploy" / "nginx"
PLAN = PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=1, max_length=1_000)


def nginx() -> str:
    found = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert found, "nginx is not installed: apt-get install -y nginx (.ci/run does)"
    return found


def edited(name: str, folder: Path, changes: dict[str, str]) -> Path:
    """A shipped configuration with its EDIT lines edited, as an operator would; all of `changes` must be there."""
    text = (SHIPPED / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    for prefix in ("/run/nginx-", "/var/log/nginx/", "/var/lib/nginx/"):
        text = text.replace(prefix, f"{folder}/{name.removesuffix('.conf')}-")
    path = folder / name
    path.write_text(text)
    return path


@dataclass
class Gateway:
    port: int
    authority: ThrowAwayAuthority
    folder: Path
    processes: Processes

    def context(self, version: ssl.TLSVersion, client: Pair | None) -> ssl.SSLContext:
        """A caller that speaks only this version. client: the certificate it shows, or none."""
        context = ssl.create_default_context(cafile=str(self.authority.root))
        context.minimum_version = context.maximum_version = version
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    def status(self, path: str, context: ssl.SSLContext) -> int:
        """The HTTP status of one request."""
        connection = http.client.HTTPSConnection(LOCALHOST, self.port, timeout=10, context=context)
        try:
            connection.request("POST", path, b"", {"content-type": "application/protobuf"})
            return connection.getresponse().status
        finally:
            connection.close()

    def start(self, name: str, configuration: Path, port: int) -> None:
        self.processes.start(name, [nginx(), "-c", str(configuration), "-g", "daemon off;"])
        self.processes.wait_for_port(name, port, 20)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalNetwork, Gateway]]:
    """A SuperLink behind the gateway; the key holder and every bank reach it through an egress of their own."""
    folder = tmp_path_factory.mktemp("gateway")
    banks = {f"bank-{number}": {"length": 200, "number": number} for number in range(3)}
    parties = LocalParties(folder / "parties", PLAN, banks)
    parties.make()
    egress = {name: free_port() for name in (KEY_HOLDER, *banks)}
    network = LocalNetwork(
        parties,
        folder / "work",
        bank_app="faulty_apps:app",
        environment={"PYTHONPATH": f"{ROOT}:{HERE}"},
        through=egress,
    )
    authority = network.authority
    gateway = Gateway(free_port(), authority, folder, network.processes)
    shown = authority.server("gateway")
    configuration = edited(
        "gateway.conf",
        folder,
        {
            "listen 9443 ssl": f"listen {LOCALHOST}:{gateway.port} ssl",
            "/etc/secagg/gateway.pem": str(shown.certificate),
            "/etc/secagg/gateway.key": str(shown.key),
            "/etc/secagg/clients-ca.pem": str(authority.root),
            "/etc/secagg/superlink-ca.pem": str(authority.root),
            "server 127.0.0.1:8000": f"server {LOCALHOST}:{network.superlink_port}",
        },
    )
    try:
        gateway.start("gateway", configuration, gateway.port)
        for name, port in egress.items():
            own, local = authority.client(name), authority.server(f"{name}-egress")
            home = folder / f"{name}-egress"
            home.mkdir()
            configuration = edited(
                "egress.conf",
                home,
                {
                    "listen 127.0.0.1:9444 ssl": f"listen {LOCALHOST}:{port} ssl",
                    "/etc/secagg/egress.pem": str(local.certificate),
                    "/etc/secagg/egress.key": str(local.key),
                    "/etc/secagg/bank.pem": str(own.certificate),
                    "/etc/secagg/bank.key": str(own.key),
                    "/etc/secagg/gateway-ca.pem": str(authority.root),
                    "proxy_ssl_name gateway.example.org": "proxy_ssl_name localhost",
                    "server gateway.example.org:9443": f"server {LOCALHOST}:{gateway.port}",
                },
            )
            gateway.start(f"{name}-egress", configuration, port)
        network.start()
        yield network, gateway
    finally:
        network.processes.stop_all()
    assert network.processes.marked() == []


def test_a_round_goes_through_the_gateway_with_client_certificates(network) -> None:
    running, gateway = network
    result = running.run(1, 150, evaluate=False)
    assert sorted(result["rounds"][0]["members"]) == ["bank-0", "bank-1", "bank-2"]
    seen = (gateway.folder / "gateway-gateway-access.log").read_text().splitlines()
    assert {line.split()[2] for line in seen} == {"TLSv1.3"}
    assert {line.split()[1] for line in seen} == {f"CN={name}" for name in (KEY_HOLDER, "bank-0", "bank-1", "bank-2")}
    assert all(line.split()[4].startswith("/v1/fleet/") for line in seen)


def test_tls_1_2_is_refused_even_with_a_client_certificate(network) -> None:
    _, gateway = network
    own = gateway.authority.client("old-caller")
    with pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"):
        gateway.status("/v1/fleet/pull-messages", gateway.context(ssl.TLSVersion.TLSv1_2, own))


def test_the_superlink_itself_would_have_accepted_tls_1_2(network) -> None:
    """Why there is a gateway; when this fails, Flower has learned it and the gateway may be simplified."""
    running, gateway = network
    direct = Gateway(running.superlink_port, gateway.authority, gateway.folder, gateway.processes)
    assert direct.status("/v1/fleet/pull-messages", direct.context(ssl.TLSVersion.TLSv1_2, None)) >= 400


def test_tls_1_3_without_a_client_certificate_is_refused(network) -> None:
    _, gateway = network
    assert gateway.status("/v1/fleet/pull-messages", gateway.context(ssl.TLSVersion.TLSv1_3, None)) == 400


def test_a_client_certificate_of_another_authority_is_refused(network, tmp_path: Path) -> None:
    _, gateway = network
    stranger = ThrowAwayAuthority(tmp_path).client("bank-0")
    assert gateway.status("/v1/fleet/pull-messages", gateway.context(ssl.TLSVersion.TLSv1_3, stranger)) == 400


def test_an_expired_client_certificate_is_refused(network) -> None:
    _, gateway = network
    old = gateway.authority.client("bank-old", expired=True)
    assert gateway.status("/v1/fleet/pull-messages", gateway.context(ssl.TLSVersion.TLSv1_3, old)) == 400


def test_a_bank_with_a_certificate_reaches_the_fleet_api_and_nothing_else(network) -> None:
    _, gateway = network
    own = gateway.context(ssl.TLSVersion.TLSv1_3, gateway.authority.client("bank-0-again"))
    # The SuperLink answers, and refuses a caller without a node key.
    assert 400 <= gateway.status("/v1/fleet/pull-messages", own) < 500
    for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs", "/"):
        assert gateway.status(path, own) == 403
    access = (gateway.folder / "gateway-gateway-access.log").read_text()
    assert "CN=bank-0-again TLSv1.3 POST /v1/fleet/pull-messages" in access


def test_every_path_that_an_operator_must_change_is_marked() -> None:
    """Guards the fixture: what runs above differs from what is shipped in the EDIT lines only."""
    for name in ("gateway.conf", "egress.conf"):
        text = (SHIPPED / name).read_text()
        edits = [line for line in text.splitlines() if "EDIT" in line and not line.lstrip().startswith("#")]
        assert len(edits) >= 8
        paths = [line for line in text.splitlines() if "/etc/secagg/" in line or "/var/" in line or "/run/" in line]
        assert all("EDIT" in line for line in paths if not line.lstrip().startswith("#"))
