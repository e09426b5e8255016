"""The line of one permission comes back whole or is refused; boxes open for whom they were closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract.errors import CredentialError, DecodeError
from schemas.security import keyring
from schemas.security.permission import JoinToken
from schemas.security.rights import GATEWAY
from schemas.security.seal import Seal, derive

names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
hex8, hex64 = (st.binary(min_size=n, max_size=n).map(bytes.hex) for n in (4, 32))
lines = st.builds(
    JoinToken,
    gateway=st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=40),
    root=names, node=names | st.just(""), permission=hex8, secret=hex64, authority=hex64 | st.just(""), reads=st.booleans(),
)  # fmt: skip
A, B = b"a" * 32, b"b" * 32


@given(lines)
def test_a_line_comes_back_equal_and_is_one_word(line: JoinToken) -> None:
    text = str(line)
    assert len(text.split()) == 1 and JoinToken.parse(f"  {text}\n") == line


@given(lines, st.data())
def test_a_line_that_was_cut_or_mistyped_is_refused(line: JoinToken, data: st.DataObject) -> None:
    text = str(line)
    at = data.draw(st.integers(0, len(text) - 1))
    typed = data.draw(st.sampled_from("AQgw09-_é"))
    for wrong in (text[:at], text[:at] + typed + text[at + 1 :]):
        if wrong != text:
            try:
                assert JoinToken.parse(wrong) == line  # the last letter may hold two spare bits
            except CredentialError as error:
                assert "copy it again" in str(error) and line.secret not in str(error)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: "dtjoin1-" + b.hex()))
def test_any_text_is_a_credential_error(text: str) -> None:
    with pytest.raises(CredentialError):
        JoinToken.parse(text)


@given(st.binary(max_size=200), st.text(max_size=10))
def test_a_box_opens_with_its_key_and_subject_alone(data: bytes, about: str) -> None:
    box = keyring.close_box(A, data, about)
    assert keyring.open_box(A, box, about) == data
    for key, subject, closed in ((B, about, box), (A, about + "x", box), (A, about, box[:-4]), (A, about, "é" + box)):
        with pytest.raises(DecodeError):
            keyring.open_box(key, closed, subject)


def ring_for(name: str, others: dict[str, tuple[bytes, str]]) -> keyring.Ring:
    """What the gateway would send to ``name``: the secret and serial of each other node are ``others``."""
    own = "0000000f"
    nodes = {
        other: keyring.NodeKey(send=keyring.speaking(name, own, secret).hex(), serial=serial)
        for other, (secret, serial) in others.items()
    }
    return keyring.Ring(nodes=nodes)


def test_two_nodes_with_their_rings_understand_each_other_until_one_is_gone() -> None:
    serial = "0000000f"
    a, b = keyring.edge_seal("a", "00000001", A), keyring.edge_seal("b", "00000002", B)
    keyring.apply(ring_for("a", {"b": (B, serial)}), A, a)
    keyring.apply(ring_for("b", {"a": (A, serial)}), B, b)
    said = a.seal("t", b"x", [("b", "00000002")])
    assert b.open("t", said).sender == "a"
    keyring.apply(keyring.Ring(nodes={}), B, b)
    assert b.peers == (GATEWAY,)
    keyring.apply(ring_for("b", {"a": (A, "00000010")}), B, b)  # enrolled anew under the same name
    with pytest.raises(DecodeError):
        b.open("t", a.seal("t", b"x", [("b", "00000002")]))


def test_a_ring_opens_for_its_node_and_epoch_alone() -> None:
    box = keyring.close_ring(ring_for("a", {"b": (B, "0000000f")}), A, "00000001")
    assert keyring.open_ring(box, A, "00000001") == ring_for("a", {"b": (B, "0000000f")})
    for secret, to in ((B, "00000001"), (A, "00000002")):
        with pytest.raises(DecodeError):
            keyring.open_ring(box, secret, to)
    with pytest.raises(DecodeError, match="unknown version"):
        keyring.open_ring(keyring.close_box(derive(A, "dt ring"), b"{}", "x"), A, "x")


def test_both_sides_of_an_attempt_share_a_key_that_the_line_alone_does_not_give() -> None:
    newcomer, gateway, other = keyring.Attempt(), keyring.Attempt(), keyring.Attempt()
    assert newcomer.shared(gateway.public, A) == gateway.shared(newcomer.public, A)
    assert other.shared(gateway.public, A) != newcomer.shared(gateway.public, A) != newcomer.shared(gateway.public, B)
    with pytest.raises(DecodeError):
        newcomer.shared("00" * 32, A)


def test_a_secret_s_keys_differ_by_purpose_and_direction() -> None:
    seal = Seal("a", "00000001")
    made = [keyring.reporting(A), keyring.speaking(GATEWAY, "", A), keyring.speaking("b", "", A), A]
    assert len({*made, keyring.password(A).encode()}) == 5 and seal.peers == ()
