"""Chunks go to who asked, in turn, and once."""

import pytest

from gateway_agent.publishing import NODES, ModelUpload
from schemas.contract.chunks import CHUNK_BYTES
from schemas.contract.messages import ChunkHeader, ChunkRequest
from schemas.contract.plan import digest

MODEL = bytes(3 * CHUNK_BYTES) + b"end"


def ask(upload: ModelUpload, node: str, *numbers: int, model: str = digest(MODEL)) -> None:
    upload.asked(ChunkRequest(node=node, epoch="01234567", digest=model, chunks=numbers))


def sent(upload: ModelUpload) -> list[tuple[str, int]]:
    found = []
    while upload:
        said = upload.next("01234567")
        assert isinstance(said.message, ChunkHeader) and said.tensors is not None
        assert digest(said.tensors["chunk"]) == upload.chunks[said.message.n]
        found.append((str(said.levels["node"]), said.message.n))
    return found


@pytest.fixture
def upload() -> ModelUpload:
    return ModelUpload("gateway", digest(MODEL), MODEL)


def test_nodes_get_their_chunks_in_turn(upload: ModelUpload) -> None:
    ask(upload, "e1", 0, 1, 2)
    ask(upload, "e2", 3)
    assert sent(upload) == [("e1", 0), ("e2", 3), ("e1", 1), ("e1", 2)]


def test_what_waits_already_is_not_sent_twice_and_what_was_sent_is_sent_again(upload: ModelUpload) -> None:
    ask(upload, "e1", 0, 1)
    ask(upload, "e1", 1, 2)
    assert sent(upload) == [("e1", 0), ("e1", 1), ("e1", 2)]
    ask(upload, "e1", 1)
    assert sent(upload) == [("e1", 1)]


def test_chunks_that_do_not_exist_or_are_of_another_model_are_ignored(upload: ModelUpload) -> None:
    ask(upload, "e1", 4)
    ask(upload, "e1", 0, model="0" * 32)
    assert not upload


def test_no_more_nodes_wait_than_a_cluster_may_have(upload: ModelUpload) -> None:
    for i in range(NODES + 9):
        ask(upload, f"e{i}", 0)
    assert len(sent(upload)) == NODES
