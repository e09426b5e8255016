"""What is fuzzed takes its seeds, and the bytes that once broke it. The campaign itself: ``python -m bench.fuzz``."""

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.fuzz import sealed
from bench.fuzz.commands import run, spoilt
from bench.fuzz.sealed import END, EPOCH, NAME, happen, running
from bench.fuzz.table import TARGETS
from gateway_agent.registry import Registry
from schemas.contract.errors import DtError
from schemas.security import keyring
from tests.examples import examples

SEEDS = {name: list(target.seeds()) for name, target in TARGETS.items()}

# Found by a campaign: what each target said before.
BROKEN = {
    "TypeError: a list is no key of the table of decoders": ("card", b"decoder = []"),
    "IndexError: the label of class -2^63": ("decoder", bytes.fromhex("040073010000630051bf026364")),
    "ValidationError: class 48696626964856832": ("decoder", bytes.fromhex("04535353535353132d5b535301")),
    "RecursionError: nested arrays": ("card", b"a = " + b"[" * 3000),
    "ValueError: a number of 5000 digits": ("card", b'decoder = "raw"\ntop_k = ' + b"9" * 5000),
    "ValueError: a zero byte in a file's name": ("card", b'decoder = "raw"\nlabels = "a\\u0000b"'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bytes_that_once_broke_a_target_are_refused(case: str) -> None:
    name, data = BROKEN[case]
    with pytest.raises(DtError):
        TARGETS[name].run(data)


def test_a_day_of_a_sealed_gateway_ends_with_its_registry_whole() -> None:
    """Somebody registers and joins; the disk is full as another does, there is room again, the file is spoilt."""
    day, room = SEEDS["sealed"][-1], resource.getrlimit(resource.RLIMIT_FSIZE)
    with running() as (gateway, page, folder):
        seal = keyring.edge_seal(NAME, EPOCH, bytes.fromhex(sealed._SECRET))
        for part in day.split(END):
            happen(part[0], part[1:], gateway, page, folder, seal)
        assert set(Registry(folder).read().nodes) == {"n", "t", "e1", "e3"} and gateway.board.nodes.keys() == {"n"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == room


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_of_a_target_reach_what_they_are_for(name: str) -> None:
    taken = 0
    for seed in SEEDS[name]:
        try:
            TARGETS[name].run(seed)
            taken += 1
        except DtError:
            pass
    assert taken >= 1


cheap = sorted(set(SEEDS) - {"graph", "tflite", "bundle", "darknet"})


@examples(300)
@given(st.sampled_from(cheap), st.data())
def test_spoilt_seeds_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    bytes_ = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for at in data.draw(st.lists(st.sampled_from(range(len(bytes_))), max_size=4)) if bytes_ else ():
        bytes_[at] = data.draw(st.integers(0, 255))
    try:
        TARGETS[name].run(bytes(bytes_))
    except DtError as error:
        assert "\n" not in str(error)


@examples(60)
@given(st.binary(min_size=1, max_size=17))
@example(b"\x01" + bytes(12) + b"\xf8\xe6\0\x01")  # a PAD whose widths do not make its output
@example(b"\x01\x03\x1c\0\0")  # an ADD of nothing: no operator behind it reads the image
def test_models_whose_numbers_are_changed_are_taken_or_refused(data: bytes) -> None:
    try:
        TARGETS["graph"].run(data)
    except DtError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("seed", [2, 5])  # dt verify, dt plan
def test_a_command_ends_with_a_line_on_a_spoilt_model(seed: int, tmp_path: Path) -> None:
    assert run(seed, tmp_path)[1] == ""
    assert spoilt(seed) == spoilt(seed)


def test_a_campaign_says_what_it_did(tmp_path: Path) -> None:
    said = tmp_path / "fuzz.json"
    command = [sys.executable, "-m", "bench.fuzz", "decoder", "--minutes", "0.02", "--json", str(said)]
    done = subprocess.run([*command, "--found", str(tmp_path)], capture_output=True, text=True)
    if importlib.util.find_spec("atheris") is None:
        assert done.returncode == 2 and "pip install" in done.stdout
        return
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(said.read_text())["decoder"]
    assert row["runs"] == row["taken"] + row["refused"] > 10 and row["found"] == [] and row["edges"] > 0
