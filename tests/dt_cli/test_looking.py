"""Which broker those who look on are led to, and with what: over sockets of this test's own, one of which speaks TLS."""

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dt_cli import looking
from gateway_agent import certificates, rules
from gateway_agent.registry import Registry
from schemas.contract.config import EdgeOptions, GatewayOptions, Settings
from schemas.contract.errors import CredentialError
from schemas.security.permission import JoinToken
from schemas.wire.link import Address

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.timezone.utc)


@pytest.fixture
def gateway(tmp_path: Path) -> Registry:
    """The state folder of a sealed gateway."""
    registry = Registry(tmp_path / "gateway")
    registry.folder.mkdir()
    registry.enroll("laptop", 0.0, reads=True)
    certificates.authority(registry.folder, NOW)
    return registry


@pytest.fixture
def sealed(gateway: Registry) -> Iterator[str]:
    """The address where it listens."""
    yield from listening(gateway)


@pytest.fixture
def plain() -> Iterator[str]:
    yield from listening(None)


def listening(registry: Registry | None) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = f"127.0.0.1:{server.getsockname()[1]}"
        context = None
        if registry is not None:
            registry.listens(at)
            held = certificates.certificates(registry.folder, ["127.0.0.1"], NOW)
            (registry.folder / "both.pem").write_bytes(held.chain + held.key)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(registry.folder / "both.pem")
        thread = threading.Thread(target=_serve, args=(server, context), daemon=True)
        thread.start()
        yield at
        server.shutdown(socket.SHUT_RDWR)
        thread.join(30)


def _serve(server: socket.socket, context: ssl.SSLContext | None) -> None:
    while True:
        try:
            line, _ = server.accept()
        except OSError:
            return
        with line:
            try:
                if context is not None:
                    context.wrap_socket(line, server_side=True).close()
            except OSError:
                pass


def settings(listen: str = "127.0.0.1:1", **edge: Any) -> Settings:
    return Settings(edge=EdgeOptions(**edge), gateway=GatewayOptions(listen=listen))


def test_the_gateway_s_state_folder_lets_in_and_leads_to_where_it_listens(sealed: str, gateway: Registry, plain: str) -> None:
    for given in (None, sealed, f"mqtt://{sealed}"):
        address, root = looking.enter(settings(state=gateway.folder, gateway=given))
        assert (str(address), address.user, root) == (sealed, rules.LOOKER, "dt")
        assert address.password == rules.users(gateway.read())[rules.LOOKER] and address.tls
        assert address.authority == (gateway.folder / certificates.AUTHORITY).read_text()
    assert looking.enter(settings(state=gateway.folder, gateway=plain)) == (Address.parse(plain), "dt")


def test_a_line_lets_in_and_is_kept(sealed: str, gateway: Registry, tmp_path: Path) -> None:
    node = gateway.read().nodes["laptop"]
    authority = (gateway.folder / certificates.AUTHORITY).read_text()
    line = JoinToken(sealed, "farm", "laptop", node.serial, node.secret, certificates.fingerprint(authority), reads=True)
    first = looking.enter(settings(state=tmp_path, join=str(line)))
    assert first == looking.enter(settings(state=tmp_path)) and first[1] == "farm"
    assert first[0].password == rules.users(gateway.read())["laptop"] and first[0].authority == authority
    other = JoinToken(sealed, "farm", "laptop", node.serial, node.secret, "00" * 32, reads=True)
    with pytest.raises(CredentialError, match="its certificate authority is another one"):
        looking.enter(settings(state=tmp_path, join=str(other)))
    (tmp_path / looking.KEPT).write_text("{}")
    with pytest.raises(CredentialError, match="give the line again"):
        looking.enter(settings(state=tmp_path))


def test_without_either_it_is_said_what_to_do(sealed: str, tmp_path: Path) -> None:
    node_line = str(JoinToken(sealed, "dt", "x", "0" * 8, "0" * 64, "0" * 64))
    for listen, given in (("127.0.0.1:1", {"gateway": sealed}), (sealed, {}), (sealed, {"join": node_line})):
        with pytest.raises(CredentialError, match=r"is sealed: .*--state DIR; .*'dt enroll NAME --reader' .*--join LINE"):
            looking.enter(settings(listen, state=tmp_path, **given))


def test_a_broker_of_one_s_own_is_taken_as_it_is_named(sealed: str, gateway: Registry, tmp_path: Path) -> None:
    for url, state in ((f"mqtts://me:pw@{sealed}", gateway.folder), (f"mqtts://{sealed}", tmp_path)):
        assert looking.enter(settings(state=state, gateway=url)) == (Address.parse(url), "dt")


def test_a_gateway_that_is_down_is_not_looked_for_elsewhere(gateway: Registry) -> None:
    gateway.listens("127.0.0.1:1")
    assert str(looking.enter(settings(state=gateway.folder))[0]) == "127.0.0.1:1"
