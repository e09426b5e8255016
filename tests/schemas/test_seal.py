"""What is opened was sealed by whom it names, for us, on this topic, now, and comes once."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.security.seal import REPLACED, WINDOW, Seal, Unsealed, derive

NAMES = ("gateway", "e1", "e2", "e3")
OLD, NEW = "0000000a", "0000000b"
payloads = st.binary(max_size=300)


def key(sender: str, receiver: str) -> bytes:
    return derive(b"secret", "pair", sender, receiver)


def seals(epoch: str = OLD) -> dict[str, Seal]:
    """All nodes, each with the keys for all others."""
    made = {name: Seal(name, epoch) for name in NAMES}
    for one, other in itertools.permutations(NAMES, 2):
        made[one].admit(other, key(one, other), key(other, one))
    return made


def say(by: Seal, to: Seal, payload: bytes = b"x", topic: str = "t") -> bytes:
    return by.seal(topic, payload, [(to.name, to.epoch)])


@given(payloads, st.text(max_size=20), st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES), max_size=4))
def test_each_receiver_opens_it_and_nobody_else(payload: bytes, topic: str, by: str, to: set[str]) -> None:
    nodes = seals()
    sealed = nodes[by].seal(topic, payload, [(name, OLD) for name in sorted(to)])
    for name in NAMES:
        if name in to and name != by:
            opened = nodes[name].open(topic, sealed)
            assert (bytes(opened.payload), opened.sender, opened.epoch, opened.fresh) == (payload, by, OLD, True)
        else:
            with pytest.raises(Unsealed) as caught:
                nodes[name].open(topic, sealed)
            assert caught.value.kind == "seal"


@given(payloads, st.data())
def test_no_altered_byte_passes(payload: bytes, data: st.DataObject) -> None:
    nodes = seals()
    sealed = bytearray(say(nodes["e1"], nodes["e2"], payload))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Unsealed):
        nodes["e2"].open("t", bytes(sealed))


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda b: b + b"DTs1"))
def test_any_bytes_are_refused_in_one_line(sealed: bytes) -> None:
    with pytest.raises(Unsealed) as caught:
        seals()["e2"].open("t", sealed, strangers=True)
    assert "\n" not in str(caught.value)


def test_another_topic_or_epoch_or_node_is_refused() -> None:
    nodes = seals()
    sealed = say(nodes["e1"], nodes["e2"])
    with pytest.raises(Unsealed):
        nodes["e2"].open("u", sealed)
    with pytest.raises(Unsealed):
        nodes["e3"].open("t", sealed)
    nodes["e2"].restart(NEW)
    with pytest.raises(Unsealed):
        nodes["e2"].open("t", sealed)


def test_who_takes_another_s_name_is_refused() -> None:
    """An enrolled node forges: it knows its own keys, and the name of another."""
    nodes = seals()
    forger = Seal("e1", OLD)
    forger.admit("e2", key("e3", "e2"), key("e2", "e3"))
    with pytest.raises(Unsealed):
        nodes["e2"].open("t", say(forger, nodes["e2"]))


def test_what_was_sealed_for_us_does_not_open_what_we_seal() -> None:
    """A message is not reflected to its sender."""
    nodes = seals()
    sealed = nodes["e1"].seal("t", b"x", [("e2", OLD), ("e1", OLD)])
    with pytest.raises(Unsealed):
        nodes["e1"].open("t", sealed)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_in_any_order_each_message_comes_once(order: list[int]) -> None:
    nodes = seals()
    sent = [say(nodes["e1"], nodes["e2"], bytes([n])) for n in range(31)]
    seen: list[int] = []
    for n in order:
        try:
            seen.append(nodes["e2"].open("t", sent[n]).payload[0])
        except Unsealed as error:
            assert error.kind == "replay" and n in seen
    assert seen == list(dict.fromkeys(order))


def test_what_is_behind_the_window_is_refused_and_what_is_just_in_it_is_not() -> None:
    nodes = seals()
    sent = [say(nodes["e1"], nodes["e2"]) for _ in range(WINDOW + 1)]
    nodes["e2"].open("t", sent[-1])
    assert nodes["e2"].open("t", sent[1]).fresh
    for again in (0, 1, WINDOW):
        with pytest.raises(Unsealed, match="came before") as caught:
            nodes["e2"].open("t", sent[again])
        assert caught.value.kind == "replay"


def test_an_epoch_that_was_replaced_is_over() -> None:
    nodes = seals()
    old = [say(nodes["e1"], nodes["e2"]) for _ in range(3)]
    nodes["e2"].open("t", old[0])
    nodes["e1"].restart(NEW)
    assert nodes["e2"].open("t", say(nodes["e1"], nodes["e2"])).epoch == NEW
    with pytest.raises(Unsealed, match="is over"):
        nodes["e2"].open("t", old[1])
    assert nodes["e2"].epoch_of("e1") == NEW and not nodes["e2"].meet("e1", OLD)


def test_an_epoch_that_somebody_told_of_is_the_one_that_counts() -> None:
    nodes = seals()
    old = say(nodes["e1"], nodes["e2"])
    assert nodes["e2"].meet("e1", OLD) and not nodes["e2"].meet("e1", OLD)
    assert nodes["e2"].meet("e1", NEW)
    with pytest.raises(Unsealed, match="is over"):
        nodes["e2"].open("t", old)


def test_a_stranger_is_heard_only_where_asked_for_and_changes_nothing() -> None:
    nodes = seals()
    sealed = nodes["e1"].seal("t", b"x", [("gateway", ""), ("gateway", "ffffffff")])
    with pytest.raises(Unsealed):
        nodes["gateway"].open("t", sealed)
    opened = nodes["gateway"].open("t", sealed, strangers=True)
    assert not opened.fresh and nodes["gateway"].epoch_of("e1") == ""
    sealed = nodes["e1"].seal("t", b"x", [("gateway", OLD), ("gateway", "")])
    assert nodes["gateway"].open("t", sealed, strangers=True).fresh and nodes["gateway"].epoch_of("e1") == OLD


def test_a_dismissed_peer_is_not_heard_and_nothing_is_sealed_for_it() -> None:
    nodes = seals()
    sealed = say(nodes["e1"], nodes["e2"])
    nodes["e2"].dismiss("e1")
    with pytest.raises(Unsealed, match="not enrolled"):
        nodes["e2"].open("t", sealed)
    with pytest.raises(Unsealed):
        nodes["e1"].open("t", say(nodes["e2"], nodes["e1"]))


def test_the_same_keys_again_keep_the_window_and_new_ones_begin_anew() -> None:
    nodes = seals()
    sealed = say(nodes["e1"], nodes["e2"])
    nodes["e2"].open("t", sealed)
    nodes["e2"].admit("e1", key("e2", "e1"), key("e1", "e2"))
    with pytest.raises(Unsealed, match="came before"):
        nodes["e2"].open("t", sealed)
    nodes["e2"].admit("e1", key("e2", "e1"), key("other", "e2"))
    with pytest.raises(Unsealed, match="does not fit"):
        nodes["e2"].open("t", sealed)


def test_the_memory_of_epochs_is_bounded() -> None:
    nodes = seals()
    for n in range(REPLACED + 10):
        nodes["e2"].meet("e1", f"{n:08x}")
    assert len(nodes["e2"]._peers["e1"].replaced) == REPLACED


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_different_parts_give_different_keys(one: list[str], other: list[str]) -> None:
    assert (derive(b"s", "a", *one) == derive(b"s", "a", *other)) == (one == other)
    assert derive(b"s", "a", *one) != derive(b"s", "b", *one) != derive(b"t", "b", *one)
