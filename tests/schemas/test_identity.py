"""The machine's id: of its board before its disk, always the same, and not to be read back."""

import re
from pathlib import Path

from schemas.host.identity import machine_id


def put(root: Path, place: str, text: bytes) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(text)


def test_a_cloned_card_in_another_board_is_another_machine(tmp_path: Path) -> None:
    ids = set()
    for board in ("one", "two"):
        root = tmp_path / board
        put(root, "etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
        put(root, "proc/device-tree/serial-number", f"10000000{board}\0".encode())
        ids.add(machine_id(root))
        assert machine_id(root) in ids
    assert len(ids) == 2 and all(re.fullmatch("[0-9a-f]{16}", found) for found in ids)


def test_without_a_serial_number_the_machine_id_counts(tmp_path: Path) -> None:
    put(tmp_path, "etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
    plain = machine_id(tmp_path)
    put(tmp_path, "proc/device-tree/serial-number", b"0000000000000000\0")
    assert machine_id(tmp_path) == plain and "0123" not in plain and len(plain) == 16


def test_a_machine_that_tells_nothing_has_no_id(tmp_path: Path) -> None:
    put(tmp_path, "etc/machine-id", b"")
    assert machine_id(tmp_path) == ""
