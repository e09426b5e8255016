"""Which cluster follows from the options: open, sealed, or a refusal that names the remedy; and the cluster's certificates."""

import datetime
import logging
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from gateway_agent import access, certificates, mosquitto, rules
from gateway_agent.broker import BrokerProcess
from gateway_agent.certificates import fingerprint
from gateway_agent.gate import GatewayGuard
from gateway_agent.homeassistant.discovery import cluster_id
from gateway_agent.registry import Registry
from schemas.contract.config import GatewayOptions
from schemas.contract.errors import CredentialError, PlanError
from schemas.wire.guard import OpenGuard
from schemas.wire.link import Address
from tests.nodes import small_plan

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.timezone.utc)


def arranged(tmp_path: Path, **given: Any) -> access.Access:
    return access.arrange(GatewayOptions(state=tmp_path, **given))


def no_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(mosquitto, "SBIN", ())


def test_loopback_needs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    for listen in ("127.0.0.1:0", "localhost:0", "[::1]:0"):
        found = arranged(tmp_path, listen=listen)
        assert type(found.guard) is OpenGuard and type(found.broker) is BrokerProcess
    assert list(tmp_path.iterdir()) == []


def test_beyond_loopback_it_is_sealed_or_it_is_said_what_insecure_opens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if mosquitto.installed():
        found = arranged(tmp_path, listen="0.0.0.0:0")
        assert isinstance(found.guard, GatewayGuard) and found.broker is not None and found.broker.url.startswith("mqtts://")
        assert found.home is not None and found.home().user == rules.HOME and found.home().authority
    with caplog.at_level(logging.WARNING):
        found = arranged(tmp_path, listen="0.0.0.0:0", insecure=True, broker="amqtt")
    assert type(found.guard) is OpenGuard and "whoever reaches 0.0.0.0 may join" in caplog.text


def test_the_embedded_broker_listens_beyond_loopback_only_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PlanError, match=r"apt install mosquitto.*--insecure"):
        arranged(tmp_path, listen="0.0.0.0:0", broker="amqtt")
    no_mosquitto(monkeypatch)
    for name in (None, "auto"):
        with pytest.raises(PlanError, match=r"apt install mosquitto.*--insecure"):
            arranged(tmp_path, listen="192.0.2.1:0", broker=name)
    found = arranged(tmp_path, sealed=True)
    assert isinstance(found.guard, GatewayGuard) and type(found.broker) is BrokerProcess
    with pytest.raises(PlanError, match="either --sealed or --insecure"):
        arranged(tmp_path, sealed=True, insecure=True)


def test_a_broker_of_yours_is_sealed_when_asked_for_or_when_somebody_is_enrolled(tmp_path: Path) -> None:
    yours = "mqtts://me:pw@broker.example"
    assert type(arranged(tmp_path / "none", broker=yours).guard) is OpenGuard and not (tmp_path / "none").exists()
    assert isinstance(arranged(tmp_path, broker=yours, sealed=True).guard, GatewayGuard)
    assert type(arranged(tmp_path, broker=yours).guard) is OpenGuard
    Registry(tmp_path).enroll("e1", 0.0)
    assert isinstance(arranged(tmp_path, broker=yours).guard, GatewayGuard)
    assert type(arranged(tmp_path, broker=yours, insecure=True).guard) is OpenGuard
    assert arranged(tmp_path, broker=yours).address() == Address.parse(yours)


def test_the_largest_packet_follows_from_the_plan() -> None:
    assert access.OTHERS_BYTES < access.packet_bytes(small_plan()) < access.OTHERS_BYTES + 100_000


def test_certificates_are_made_once_kept_and_the_owner_s(tmp_path: Path) -> None:
    first = certificates.certificates(tmp_path, ["localhost", "127.0.0.1"], NOW)
    assert certificates.certificates(tmp_path, ["127.0.0.1", "localhost"], NOW) == first
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert certificates.authority(tmp_path, NOW) == first.authority and len(fingerprint(first.authority)) == 64
    assert first.chain.count(b"BEGIN CERTIFICATE") == 2 and first.authority.encode() in first.chain


@pytest.mark.parametrize(
    ("names", "later", "renewed"),
    [
        (["localhost"], 0, False),
        (["localhost", "10.0.0.2"], 0, True),
        (["localhost"], certificates.SERVER_DAYS - certificates.RENEW_DAYS - 1, False),
        (["localhost"], certificates.SERVER_DAYS - certificates.RENEW_DAYS + 1, True),
    ],
)
def test_the_broker_s_certificate_is_renewed_in_time_and_for_other_names(
    tmp_path: Path, names: list[str], later: int, renewed: bool
) -> None:
    first = certificates.certificates(tmp_path, ["localhost"], NOW)
    second = certificates.certificates(tmp_path, names, NOW + datetime.timedelta(days=later))
    assert (second.chain != first.chain) is renewed and second.authority == first.authority
    server = x509.load_pem_x509_certificate(second.chain)
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(second.authority.encode()))
    context = ssl.create_default_context(cadata=second.authority)
    assert context.get_ca_certs()


def test_a_key_of_another_time_or_authority_is_made_anew_and_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    first = certificates.certificates(tmp_path / ".", ["localhost"], NOW)
    other = tmp_path / "other"
    other.mkdir()
    certificates.certificates(other, ["localhost"], NOW)
    for name in (certificates.SERVER_KEY, certificates.SERVER):
        (tmp_path / name).write_bytes((other / name).read_bytes())
        again = certificates.certificates(tmp_path, ["localhost"], NOW)
        assert again.authority == first.authority
        server = x509.load_pem_x509_certificate(again.chain)
        server.verify_directly_issued_by(x509.load_pem_x509_certificate(first.authority.encode()))
    (tmp_path / certificates.AUTHORITY).write_text("nothing")
    with pytest.raises(CredentialError, match="is damaged"):
        certificates.certificates(tmp_path, ["localhost"], NOW)


def test_the_broker_s_own_certificate_is_made_anew_if_it_is_spoilt(tmp_path: Path) -> None:
    first = certificates.certificates(tmp_path, ["localhost"], NOW)
    bare = certificates._builder(certificates._name("x"), certificates._name("DeepThings cluster"), _key().public_key(), NOW)
    for name, data in (
        (certificates.SERVER, b"nothing"), (certificates.SERVER, bare.sign(_key(), SHA256()).public_bytes(Encoding.PEM)),
        (certificates.SERVER_KEY, b"nothing"), (certificates.SERVER_KEY, certificates._key_pem(_key())),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        again = certificates.certificates(tmp_path, ["localhost"], NOW)
        x509.load_pem_x509_certificate(again.chain).verify_directly_issued_by(
            x509.load_pem_x509_certificate(first.authority.encode())
        )
        assert again.authority == first.authority and certificates.certificates(tmp_path, ["localhost"], NOW) == again


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_an_authority_whose_key_is_lost_or_another_s_is_kept_as_long_as_it_need_not_sign(tmp_path: Path) -> None:
    first = certificates.certificates(tmp_path, ["localhost"], NOW)
    (tmp_path / certificates.AUTHORITY_KEY).unlink()
    assert certificates.certificates(tmp_path, ["localhost"], NOW) == first
    assert certificates.authority(tmp_path, NOW) == first.authority
    with pytest.raises(CredentialError, match=r"ca\.key is gone"):
        certificates.certificates(tmp_path, ["elsewhere"], NOW)
    (tmp_path / certificates.AUTHORITY_KEY).write_bytes(certificates._key_pem(_key()))
    with pytest.raises(CredentialError, match="is not the key of"):
        certificates.certificates(tmp_path, ["elsewhere"], NOW)
    (tmp_path / certificates.AUTHORITY).unlink()
    assert certificates.authority(tmp_path, NOW) != first.authority, "killed between the two files"


def _removed(folder: Path) -> None:
    for name in (certificates.AUTHORITY, certificates.AUTHORITY_KEY):
        (folder / name).unlink()


def _linked(folder: Path) -> None:
    (folder / certificates.SERVER).unlink()
    (folder / certificates.SERVER).symlink_to("/dev/zero")


SPOILT: dict[str, Callable[[Path], object]] = {
    "a spoilt authority": lambda folder: (folder / certificates.AUTHORITY).write_text("nothing"),
    "another authority": _removed,
    "a spoilt key": lambda folder: (folder / certificates.AUTHORITY_KEY).write_text("nothing"),
    "a link": _linked,
}


@pytest.mark.skipif(not mosquitto.installed(), reason="mosquitto is not installed")
@pytest.mark.parametrize("how", SPOILT)
def test_a_running_gateway_s_broker_keeps_its_certificate_and_learns_its_users_whatever_becomes_of_the_disk(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = arranged(tmp_path, listen="127.0.0.1:0", sealed=True)
    broker, gate, registry = found.broker, found.guard, Registry(tmp_path)
    assert isinstance(broker, mosquitto.MosquittoProcess) and isinstance(gate, GatewayGuard)
    held = broker._protection
    assert held is not None
    SPOILT[how](tmp_path)
    registry.enroll("e1", 0.0)
    gate.tick()
    assert broker._protection is not None and b"e1:" in broker._protection.passwords
    assert broker._protection.chain == held.chain and (found.address().authority or "-") in held.chain.decode()
    registry.revoke("e1")
    gate.tick()
    assert b"e1:" not in broker._protection.passwords
    assert caplog.text.count("keeps the certificate that it has") == 1, "told once"


def test_the_broker_s_rules_name_what_each_may_and_nothing_else(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.enroll("e1", 0.0)
    registry.enroll("looker", 0.0, reads=True)
    registry.enroll("ha", 0.0, controls=True)
    key, _ = registry.permit("e2", 100.0, 0.0)
    sections = rules.access_file("dt", registry.read()).split("user ")[1:]
    said = {section.split("\n", 1)[0]: set(section.split("\n")[1:-1]) for section in sections}
    assert set(said) == {"gateway", "gateway.home", "gateway.looker", "e1", "looker", "ha", f"join.{key}"}
    reads = {line.removeprefix("topic read ") for line in said["e1"] if " read " in line}
    assert reads == {
        *(f"dt/{what}/e1" for what in ("echo", "steal", "tile", "return", "accepted", "keys")),
        "dt/plan", "dt/model/+/chunk", "dt/overlap/+/+", "dt/overlap/req", "dt/status/req",
    }  # fmt: skip
    writes = {line.removeprefix("topic write ") for line in said["e1"] if " write " in line}
    assert writes == {
        "dt/register", "dt/victim/req", "dt/tile/+", "dt/return/+", "dt/result/+", "dt/overlap/+/+", "dt/overlap/req",
        "dt/node/e1/status", "dt/source/e1/picture", "dt/model/e1/ask",
    }  # fmt: skip
    assert said[f"join.{key}"] == {f"topic write dt/join/{key}/ask", f"topic read dt/join/{key}/answer"}
    looks = {
        *(f"topic read dt/bridge/{what}" for what in ("state", "info", "nodes", "health", "response/+")), "topic read dt/plan",
        "topic read dt/register", "topic read dt/node/+/status", "topic read dt/source/+/outcome",
        "topic read dt/source/+/output", "topic write dt/status/req",
    }  # fmt: skip
    assert said["looker"] == said["gateway.looker"] == looks
    base = f"deepthings/{cluster_id('dt')}"
    controls = {f"topic write {base}/set/{verb}" for verb in ("detection", "threshold", "grid", "model", "restart")}
    assert said["ha"] == looks | controls | {
        "topic read homeassistant/#", "topic write homeassistant/status", f"topic read {base}/#",
        "topic write dt/bridge/request/+",
    }  # fmt: skip
    assert said["gateway.home"] == {
        "topic write homeassistant/#", "topic read homeassistant/status", f"topic readwrite {base}/#",
    }  # fmt: skip
    users = rules.users(registry.read())
    assert len(rules.password_file(registry.read()).splitlines()) == len(users) == len(set(users.values())) == 7


def test_home_assistant_is_shown_where_a_broker_keeps_others_out_or_nothing_does(tmp_path: Path) -> None:
    for given, shown in (
        ({}, True), ({"broker": "mqtt://ha"}, True), ({"broker": "mqtt://ha", "sealed": True}, True),
        ({"broker": "amqtt", "sealed": True, "listen": "127.0.0.1:0"}, False),
    ):  # fmt: skip
        assert (arranged(tmp_path, **given).home is not None) is shown


def test_home_assistant_s_rules_follow_its_prefix(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.enroll("ha", 0.0, controls=True)
    told = rules.access_file("farm", registry.read(), "my/ha")
    assert "topic read my/ha/#\ntopic write my/ha/status\n" in told and "homeassistant" not in told
    assert f"topic write deepthings/{cluster_id('farm')}/set/detection\n" in told


def test_a_name_is_enrolled_once_and_never_the_gateway_s(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.enroll("e1", 0.0)
    for name in ("e1", "gateway"):
        for refused in (lambda name=name: registry.permit(name, 1.0, 0.0), lambda name=name: registry.enroll(name, 0.0)):
            with pytest.raises(PlanError, match="choose another"):
                refused()
