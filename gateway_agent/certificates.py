"""The cluster's own certificate authority and the broker's certificate, made by the gateway at its first sealed start.

It knows X.509 by the library. Law: the authority signs one certificate at a time, the broker's; so who trusts this authority
alone needs no name to compare. Both are valid from long ago on, for a Pi without a clock of its own may be late.
"""

import contextlib
import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from schemas.contract.errors import CredentialError
from schemas.host import state

AUTHORITY, AUTHORITY_KEY, SERVER, SERVER_KEY = "ca.pem", "ca.key", "server.pem", "server.key"
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
AUTHORITY_YEARS, SERVER_DAYS, RENEW_DAYS = 30, 730, 60


@dataclass(frozen=True)
class Certificates:
    """PEM, all: the authority; the chain that the broker shows (its certificate, then the authority) and its key."""

    authority: str
    chain: bytes
    key: bytes


def fingerprint(authority: str) -> str:
    """SHA-256 of the authority's DER, in hexadecimal."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority)).hexdigest()


def authority(folder: Path, now: datetime.datetime) -> str:
    """The authority in ``folder``, made if there is none, as PEM.

    Raises:
        CredentialError: its file is damaged.
    """
    with _told(folder):
        return _pem(_authority(folder, now)[0]).decode()


def certificates(folder: Path, names: Sequence[str], now: datetime.datetime) -> Certificates:
    """Those in ``folder``, made where they are missing; the broker's also where it ends within ``RENEW_DAYS`` days or does
    not hold ``names`` (host names and addresses).

    Raises:
        CredentialError: a file is damaged.
    """
    with _told(folder):
        signer, key = _authority(folder, now)
        found = _kept(folder, signer, names, now)
        if found is None:
            server, server_key = found = _issue(signer, key, names, now)
            state.write(folder / SERVER_KEY, server_key)
            state.write(folder / SERVER, server)
    pem = _pem(signer)
    return Certificates(pem.decode(), found[0] + pem, found[1])


_DAMAGES = (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension, UnsupportedAlgorithm)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn the library's refusal into one line."""
    try:
        yield
    except _DAMAGES as error:
        raise CredentialError(
            f"a certificate or key in {folder} is damaged ({error}): restore it, or remove {AUTHORITY} and {AUTHORITY_KEY} "
            "and let every node join anew"
        ) from None


def _kept(folder: Path, signer: Any, names: Sequence[str], now: datetime.datetime) -> tuple[bytes, bytes] | None:
    """The broker's certificate and key, if they are whole, belong together and are good for now; others can be made anew."""
    server, key = state.read(folder / SERVER), state.read(folder / SERVER_KEY)
    try:
        if server is not None and key is not None:
            found = x509.load_pem_x509_certificate(server)
            if _lasts(found, signer, names, now) and _public(found) == _public(_private(key)):
                return server, key
    except _DAMAGES:
        return None
    return None


def _authority(folder: Path, now: datetime.datetime) -> tuple[Any, Any]:
    """The authority's certificate, and its key: None if that is gone, for what it has signed is still good."""
    found, found_key = state.read(folder / AUTHORITY), state.read(folder / AUTHORITY_KEY)
    if found is not None:
        kept, kept_key = x509.load_pem_x509_certificate(found), None if found_key is None else _private(found_key)
        if kept_key is not None and _public(kept) != _public(kept_key):
            raise ValueError(f"{AUTHORITY_KEY} is not the key of {AUTHORITY}")
        return kept, kept_key
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("DeepThings cluster")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # to sign certificates
    made = (
        _builder(name, name, key.public_key(), now + datetime.timedelta(days=365 * AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    state.write(folder / AUTHORITY_KEY, _key_pem(key))
    state.write(folder / AUTHORITY, _pem(made))
    return made, key


def _issue(authority: Any, key: Any, names: Sequence[str], now: datetime.datetime) -> tuple[bytes, bytes]:
    if key is None:
        raise ValueError(f"{AUTHORITY_KEY} is gone")
    own = ec.generate_private_key(ec.SECP256R1())
    made = (
        _builder(_name("DeepThings broker"), authority.subject, own.public_key(), now + datetime.timedelta(days=SERVER_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(made), _key_pem(own)


def _lasts(server: Any, authority: Any, names: Sequence[str], now: datetime.datetime) -> bool:
    if server.issuer != authority.subject or server.not_valid_after_utc < now + datetime.timedelta(days=RENEW_DAYS):
        return False
    try:
        server.verify_directly_issued_by(authority)
    except InvalidSignature:
        return False
    held = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(held) == {_general(name) for name in names}


def _builder(subject: Any, issuer: Any, public: Any, until: datetime.datetime) -> Any:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(LONG_AGO).not_valid_after(until)


def _name(common: str) -> Any:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: Any) -> bytes:
    return bytes(certificate.public_bytes(Encoding.PEM))


def _key_pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _private(pem: bytes) -> Any:
    return load_pem_private_key(pem, None)


def _public(holder: Any) -> Any:
    return holder.public_key()
