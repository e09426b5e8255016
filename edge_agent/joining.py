"""Joining a cluster by the line that 'dt enroll' printed: the gateway is known by its authority's fingerprint, this node by the
line's secret, and what comes back is a secret of its own.

Law: nothing is said before the gateway's certificate chain has the authority of the line, and nothing is kept before the
answer's proof is right.
"""

import hashlib
import queue
import socket
import ssl
import time
from typing import Any

from edge_agent.membership import Membership
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import CredentialError, DecodeError, UnreachableError
from schemas.security import keyring
from schemas.security.permission import JoinToken
from schemas.wire.codec import decode
from schemas.wire.link import Address, Arrived, Link

TRIES, ANSWER_S = 5, 3.0


def join(line: JoinToken, name: str) -> Membership:
    """Become ``name`` in the line's cluster.

    Raises:
        CredentialError: the line was used, has ended, is for another name, or the gateway is not the one it means.
        UnreachableError: nobody answers.
    """
    authority = authority_of(line) if line.authority else None
    address = Address.parse(line.gateway)
    if authority is not None:
        address = Address(address.host, address.port, True, line.user, line.password, authority)
    inbox: queue.Queue[Any] = queue.Queue(64)
    attempt, secret = keyring.Attempt(), bytes.fromhex(line.secret)
    with Link(address, line.root, name, inbox) as link:
        link.subscribe(topics.JOINED, permission=line.permission)
        link.connect()
        epoch = m.new_epoch()
        proof = keyring.ask_proof(secret, name, epoch, line.permission, attempt.public)
        ask = m.JoinRequest(node=name, epoch=epoch, permission=line.permission, public=attempt.public, proof=proof)
        for _ in range(TRIES):
            link.publish(topics.JOIN, ask, permission=line.permission)
            answer = _await_answer(inbox, line.root, attempt.public, secret)
            if answer is not None:
                return _accept(answer, attempt, secret, line, name, authority)
    raise UnreachableError(f"the gateway behind {address} does not answer: is 'dt gateway' running there with this cluster?")


def _await_answer(inbox: "queue.Queue[Any]", root: str, public: str, secret: bytes) -> m.JoinAnswer | None:
    deadline = time.monotonic() + ANSWER_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            event = inbox.get(timeout=left)
            message = decode(root, event.topic, event.payload).message if isinstance(event, Arrived) else None
        except (queue.Empty, DecodeError):
            continue
        if isinstance(message, m.JoinAnswer) and message.to == public and keyring.answers_rightly(message, secret):
            return message
    return None


def _accept(
    answer: m.JoinAnswer, attempt: keyring.Attempt, secret: bytes, line: JoinToken, name: str, authority: str | None
) -> Membership:
    if answer.refused:
        raise CredentialError(f"the gateway refuses: {answer.refused}")
    own = keyring.open_box(attempt.shared(answer.public, secret), answer.box, name)
    return Membership(
        name=name, root=line.root, gateway=line.gateway, secret=own.hex(), permission=line.permission, authority=authority
    )  # fmt: skip


def authority_of(line: JoinToken) -> str:
    """The authority in the chain that the gateway shows, as PEM, if its fingerprint is the line's.

    Raises:
        CredentialError: it is another one.
        UnreachableError: nobody answers there, or nobody who speaks TLS.
    """
    address = Address.parse(line.gateway)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said on this connection
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=10) as raw,
            context.wrap_socket(raw) as shown,
        ):
            chain = _chain(shown)
    except OSError as error:
        raise UnreachableError(
            f"no gateway at {address}: {error.strerror or error}: is 'dt gateway' running there, and that address right?"
        ) from None
    for certificate in chain:
        if hashlib.sha256(certificate).hexdigest() == line.authority:
            return ssl.DER_cert_to_PEM_cert(certificate)
    raise CredentialError(
        f"what answers at {address} is not the gateway that printed this line: its certificate authority is another one"
    )


def _chain(shown: ssl.SSLSocket) -> list[bytes]:
    """The certificates that the other side sent, as DER. Public since Python 3.13."""
    if hasattr(shown, "get_unverified_chain"):
        return [bytes(certificate) for certificate in shown.get_unverified_chain()]
    raw: Any = shown
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in raw._sslobj.get_unverified_chain()]
