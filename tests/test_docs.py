"""What the documents say of the code is so: rooms, the walk of a frame, topics, bytes, links, decisions, targets."""

import base64
import hashlib
import json
import queue
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from edge_agent.proofs import Proofs
from schemas.contract.topics import TABLE
from schemas.security import keyring
from schemas.security.permission import JoinToken, joiner_password
from schemas.security.rights import is_sealed
from schemas.security.seal import Seal
from schemas.wire.codec import decode
from schemas.wire.direct import Direct
from tests.map import FLOORS, ROOT, rooms

DESIGN, PROTOCOL = (ROOT / "docs" / f"{name}.md" for name in ("DESIGN", "PROTOCOL"))
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))


def section(page: Path, title: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def steps() -> list[str]:
    """The walk of a frame, a step a line."""
    return re.split(r"^\d+\. ", section(DESIGN, "The walk of a frame"), flags=re.MULTILINE)[1:]


def test_the_design_lists_every_room_and_what_it_imports() -> None:
    table = rows(section(DESIGN, "Rooms"))
    listed = {named(room)[0].strip("/"): {top.strip("/") for top in named(imports)} for room, _, imports in table}
    drawn = {
        room.replace(".", "/"): {target.split(".")[0] for target in targets} - {room.split(".")[0]}
        for room, targets in rooms().items()
    }
    assert listed == drawn, "docs/DESIGN.md, Rooms"


def test_no_room_imports_one_above_it() -> None:
    for room, targets in rooms().items():
        for target in targets - {room}:
            ours, theirs = room.split(".")[0], target.split(".")[0]
            assert ours == theirs or FLOORS[theirs] < FLOORS[ours], f"{room} imports {target}"


def test_the_rooms_are_all_folders_of_code() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == FLOORS.keys()


def test_a_frame_walks_in_at_most_fifteen_steps_through_each_room_once() -> None:
    entered = [named(step)[0] for step in steps()]
    assert 5 <= len(entered) <= 15 and len(set(entered)) == len(entered)
    assert all((ROOT / room).exists() for room in entered)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    tops = "|".join((*(FLOORS.keys() - {"deepthings"}), "tests", "docs", "systemd"))  # deepthings/ begins topics, too
    for name in named(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        if re.fullmatch(rf"(?:{tops})/[\w./-]*", name):
            assert any((ROOT / path).exists() for path in (name, f"{name}.py", f"tests/{name}.py")), f"{page.name} names {name}"


def test_the_protocol_lists_every_topic_as_the_table_has_it() -> None:
    listed = {named(topic)[0]: cells for topic, *cells in rows(section(PROTOCOL, "Topics"))}
    assert list(listed) == [row.pattern for row in TABLE], "docs/PROTOCOL.md, Topics"
    for row in TABLE:
        way, qos, seal, payload = listed[row.pattern]
        assert way == f"{row.publisher} -> {row.subscriber}", row.pattern
        assert qos == f"{row.qos}{', retained' if row.retained else ''}", row.pattern
        assert (seal == "yes") == is_sealed(row) and payload.startswith("tensors; ") == row.tensors, row.pattern
        assert named(payload) == [name for name in row.payload.model_fields if name not in ("v", "node", "epoch")], row.pattern


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_of_the_project_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("0*.md"))


def test_make_help_lists_every_target_of_the_makefile() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert phony and {line.split()[0] for line in told.splitlines()} == set(phony[1].split())


# What PROTOCOL.md says of bytes, in as few lines as it takes: another client would be written so.


def derive(secret: bytes, label: bytes, *parts: bytes, size: int = 32) -> bytes:
    said = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return hashlib.blake2b(said, digest_size=size, key=secret, person=label.ljust(16, b"\0")).digest()


def test_a_seal_that_is_made_as_the_protocol_says_is_believed() -> None:
    edge, other = bytes(range(32)), bytes(range(32, 64))
    seal = keyring.edge_seal("kitchen", "0123abcd", edge)
    speakers = {name: derive(edge, b"dt speak", name, serial) for name, serial in ((b"gateway", b""), (b"attic", b"00000002"))}
    seal.admit("attic", derive(other, b"dt speak", b"kitchen", b"00000001"), speakers[b"attic"])
    for sender, key in speakers.items():
        topic, payload, epoch, counter = b"dt/echo/kitchen", b'{"v":1}', b"deadbeef", struct.pack("<Q", 7)
        hashed = hashlib.blake2b(payload, digest_size=32).digest()
        tag = derive(key, b"dt tag", topic, sender, epoch, counter, b"0123abcd", hashed, size=16)
        receiver = hashlib.blake2b(b"kitchen", digest_size=4).digest()
        sealed = payload + receiver + tag + sender + epoch + counter + bytes([1, len(sender)]) + b"DTs1"
        opened = seal.open(topic.decode(), sealed)
        assert (bytes(opened.payload), opened.sender, opened.epoch) == (payload, sender.decode(), "deadbeef")
    assert keyring.reporting(edge) == derive(edge, b"dt report")
    assert keyring.password(edge) == base64.urlsafe_b64encode(derive(edge, b"dt broker")[:24]).decode()


def test_a_join_and_a_proof_of_parts_are_made_as_the_protocol_says() -> None:
    secret, public = bytes(range(32)), "ab" * 32
    asked = derive(secret, b"dt ask", b"kitchen", b"0123abcd", b"00000001", public.encode())
    assert keyring.ask_proof(secret, "kitchen", "0123abcd", "00000001", public) == asked.hex()
    answered = derive(secret, b"dt answer", public.encode(), public.encode(), b"box", b"")
    assert keyring.answer_proof(secret, public, public, "box", "") == answered.hex()
    assert joiner_password(secret.hex()) == derive(secret, b"dt joiner")[:24].hex()
    line = str(JoinToken("gate:8883", "dt", "kitchen", "00000001", secret.hex(), "cd" * 32))
    raw = base64.urlsafe_b64decode(line.removeprefix("dtjoin1-") + "==")
    keys = bytes.fromhex("00000001") + secret + bytes.fromhex("cd" * 32)
    assert raw[4:] == bytes([len(keys)]) + keys + b"gate:8883\ndt\nkitchen"
    assert raw[:4] == hashlib.blake2b(raw[4:], digest_size=4).digest()
    proofs = Proofs("kitchen", lambda: "0f" * 16)
    proofs.open("cam-0123abcd-0")
    proved = derive(bytes.fromhex("0f" * 16), b"dt part", b"kitchen", b"cam-0123abcd-0", b"1/2/3", size=16)
    assert proofs.prove("cam-0123abcd-0", 1, 2, 3) == proved.hex()


@pytest.mark.parametrize("packed", [False, True])
def test_tensors_are_read_as_the_protocol_says(packed: bool) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    entries: list[dict[str, Any]] = [
        {"name": "image", "dtype": "uint8", "shape": [1, 4, 4, 3]}, {"name": "wide", "dtype": "float32", "shape": [64]}
    ]  # fmt: skip
    ids = {"epoch": "0123abcd", "plan": "0" * 32, "to_epoch": "0" * 8, "request": "1" * 8}
    wide = np.linspace(0, 1, 64, dtype="<f4")
    bodies = [pixels.tobytes(), wide.tobytes()]
    if packed:
        turned = pixels.copy()
        turned[:, :, 1:] -= pixels[:, :, :-1]
        bodies = [zstandard.compress(turned.tobytes()), zstandard.compress(wide.view(np.uint8).reshape(64, 4).T.tobytes())]
        entries = [{**entry, "packed": len(body)} for entry, body in zip(entries, bodies)]
    header = json.dumps({"message": {"node": "cam", "frame": "cam-0123abcd-0", **ids}, "tensors": entries})
    padded = header.encode() + b" " * (-(8 + len(header)) % 16)
    read = decode("dt", "dt/tile/kitchen", b"DT\x01\x00" + struct.pack("<I", len(padded)) + padded + b"".join(bodies))
    assert np.array_equal(read.tensors["image"], pixels) and np.array_equal(read.tensors["wide"], wide)


def test_a_straight_connection_that_is_made_as_the_protocol_says_brings_a_tile() -> None:
    """The dialler "attic" is written here; "kitchen" is ours."""
    keys = {"kitchen": bytes(range(32)), "attic": bytes(range(32, 64))}  # with which each speaks to the other
    seal, inbox = Seal("kitchen", "0123abcd"), queue.Queue[Any]()
    seal.admit("attic", keys["kitchen"], keys["attic"])
    seal.meet("attic", "deadbeef")
    kitchen = Direct("dt", "kitchen", "0123abcd", inbox, seal)
    try:
        address = kitchen.open("127.0.0.1")
        assert address is not None
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw().hex()
        said: dict[str, Any] = {"node": "attic", "epoch": "deadbeef", "to": "kitchen", "to_epoch": "0123abcd", "public": public}
        proved = [value.encode() for value in said.values()]
        proof = derive(keys["attic"], b"dt hello", *proved, b"").hex()
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 10) as line:
            stream = line.makefile("rwb")

            def send(body: bytes) -> None:
                stream.write(struct.pack("<I", len(body)) + body)
                stream.flush()

            def read() -> bytes:
                return stream.read(struct.unpack("<I", stream.read(4))[0])

            send(json.dumps({"v": 1, **said, "proof": proof}).encode())
            answer = json.loads(read())
            proved = [answer[key].encode() for key in ("node", "epoch", "to", "to_epoch", "public")]
            assert answer["proof"] == derive(keys["kitchen"], b"dt hello", *proved, public.encode()).hex()
            agreed = private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(answer["public"])))
            ours, theirs = (
                ChaCha20Poly1305(derive(derive(keys[name], b"dt join", agreed), b"dt straight", *both))
                for name in ("attic", "kitchen") for both in [(public.encode(), answer["public"].encode())]
            )  # fmt: skip
            send(ours.encrypt(bytes(12), b"\x02[3]", None))
            assert theirs.decrypt(bytes(12), read(), None) == b"\x02[]"
            send(ours.encrypt((1).to_bytes(12, "little"), b"\x04\x0fdt/tile/kitchen" + b"payload", None))
            event = inbox.get(timeout=10)
            assert (event.topic, bytes(event.payload), event.opened.sender) == ("dt/tile/kitchen", b"payload", "attic")
            assert theirs.decrypt((1).to_bytes(12, "little"), read(), None) == b"\x03" + struct.pack("<Q", 1)
    finally:
        kitchen.close()
