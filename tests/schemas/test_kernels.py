"""Which nodes may share a plan, by the lines that tell what their kernels compute."""

import re

import pytest

from schemas.contract.kernels import difference, without_digests

PI3 = "ai-edge-litert 2.3.0 aarch64 float32=02f8515f int8=ae5efe0b uint8=955d0941 dynamic=f95e3fa6"
PI4 = "ai-edge-litert 2.3.0 aarch64 float32=02f8515f int8=ae5efe0b uint8=d5fa9f1d dynamic=f95e3fa6"
FLOAT, UINT8 = (PI4.split(" float")[0] + word for word in (" float32=02f8515f", " uint8=d5fa9f1d"))


@pytest.mark.parametrize("node", [PI3, PI4])
@pytest.mark.parametrize("cluster", [FLOAT, f"{FLOAT} int8=ae5efe0b"])
def test_a_pi_3_and_a_pi_4_share_a_float_or_int8_model(node: str, cluster: str) -> None:
    assert difference(node, cluster) == ("", "")


def test_a_pi_3_is_refused_where_the_model_is_uint8_and_told_what_helps() -> None:
    assert difference(PI4, UINT8) == ("", "")
    reason, remedy = difference(PI3, UINT8)
    assert reason == "its processor computes other uint8 bits than this cluster (uint8 955d0941, not d5fa9f1d)"
    assert remedy.startswith("use an int8 or float32 model, in which a Pi 3 or Zero 2 W agrees with a Pi 4 or 5")


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("ai-edge-litert 2.2.0 aarch64 float32=02f8515f", "runs ai-edge-litert 2.2.0 aarch64, this cluster ai-edge-litert 2.3"),
        ("ai-edge-litert 2.3.0 x86_64 float32=02f8515f", "runs ai-edge-litert 2.3.0 x86_64"),
        ("ai-edge-litert 2.3.0 aarch64 02f8515f", "runs ai-edge-litert 2.3.0 aarch64 02f8515f"),  # an older release
        ("ai-edge-litert 2.3.0 aarch64 int8=ae5efe0b", "other float32 bits .*unknown, not 02f8515f"),
        ("", "runs , this"),
        ("=", "runs , this"),
    ],
)
def test_another_runtime_machine_release_or_digest_is_refused(node: str, words: str) -> None:


    reason, remedy = difference(node, FLOAT)
    assert re.search(words, reason) and "of one kind" in remedy


def test_people_read_a_line_without_its_digests() -> None:
    assert without_digests(PI3) == "ai-edge-litert 2.3.0 aarch64" and without_digests("-") == "-"
