"""What a gateway says and finishes, message by message."""

import numpy as np
import pytest

from gateway_agent.early import BYTES, HELD_S, RESULTS
from gateway_agent.node import Before, Counted, Distrusted, Finish, GatewayNode, Keep, Reconnect
from gateway_agent.victims import Forward
from models.tiling.tensor import crop
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.results import Detection, Result
from schemas.contract.topics import Publish
from schemas.wire.codec import encode
from tests.nodes import blocks_plan, heard, outputs, published, small_plan

PLAN = small_plan()
FRAME = "edge1-11111111-0"


def gateway() -> GatewayNode:
    return GatewayNode("gateway", "aaaaaaaa", PLAN, deadline_s=30.0)


def register(
    node: GatewayNode, name: str, epoch: str, waiting: int = 0, frames: tuple[str, ...] = (), now: float = 0.0,
    runtime: str = "test kernels", leaving: bool = False, machine: str = "",
) -> list[object]:  # fmt: skip
    message = m.Register(
        node=name,
        epoch=epoch,
        seq=1,
        runtime=runtime,
        plan=node.digest,
        waiting=waiting,
        frames=frames,
        leaving=leaving,
        machine=machine,
    )
    return list(node.hear(heard(topics.REGISTER, message), now))


def result(
    node: GatewayNode, tile: int, worker: str = "edge2", epoch: str = "22222222", now: float = 1.0, frame: str = FRAME
) -> list[object]:
    """Of a tile that was lent to the worker."""
    request = f"{m.frame_source(frame)[2] & 0xFFFF:04x}{tile:04x}"
    node.grants.add([Forward("edge1", "11111111", worker, epoch, request, False)])
    header = m.ResultHeader(
        node=worker, epoch=epoch, plan=node.digest, frame=frame, block=0, tile=tile, stolen=True, request=request,
        picture=(48, 64),
    )  # fmt: skip
    return list(node.hear(heard(topics.RESULT, header, outputs(PLAN, tile, tile)), now))


def running() -> GatewayNode:
    """A gateway with a source that has one frame open and an idle worker."""
    node = gateway()
    register(node, "edge1", "11111111", 4, (FRAME,))
    register(node, "edge2", "22222222")
    return node


def test_every_register_is_echoed() -> None:
    (echo,) = published(register(gateway(), "edge1", "11111111"), topics.ECHO)
    assert echo.levels == {"node": "edge1"} and echo.message.to_epoch == "11111111" and not echo.message.refused


def test_who_takes_straight_connections_is_told_to_all_that_do_not_know_it_yet() -> None:
    node = gateway()

    def tell(name: str, epoch: str, roster: str | None, address: str | None = None, now: float = 0.0) -> m.Echo:
        message = m.Register(
            node=name, epoch=epoch, seq=1, runtime="test kernels", plan=node.digest, address=address, roster=roster
        )
        (echo,) = published(node.hear(heard(topics.REGISTER, message), now), topics.ECHO)
        assert isinstance(echo.message, m.Echo)
        return echo.message

    assert tell("edge1", "11111111", None).roster is None
    first = tell("edge2", "22222222", None, "10.0.0.2:40000")
    assert first.peers == {"edge2": m.Peer(epoch="22222222", address="10.0.0.2:40000")} and first.roster
    assert not tell("edge2", "22222222", first.roster, "10.0.0.2:40000").peers, "it knows"
    assert tell("edge1", "11111111", None).peers == first.peers
    moved = tell("edge2", "22222222", first.roster, "10.0.0.3:40000")
    assert moved.peers["edge2"].address == "10.0.0.3:40000" and moved.roster != first.roster
    node.tick(7.0)
    gone = tell("edge1", "11111111", moved.roster, now=7.0)
    assert gone.roster is None and not gone.peers, "edge2 has fallen silent"


def test_a_parked_request_is_answered_when_somebody_has_work() -> None:
    node = gateway()
    register(node, "edge2", "22222222")
    ask = m.VictimRequest(node="edge2", epoch="22222222", plan=node.digest, request="0000000a")
    assert not node.hear(heard(topics.VICTIM_REQ, ask), 0.5)
    (steal,) = published(register(node, "edge1", "11111111", 4, (FRAME,), 1.0), topics.STEAL)
    assert steal.levels == {"node": "edge1"} and (steal.message.thief, steal.message.request) == ("edge2", "0000000a")


def test_the_last_tile_makes_the_frame_whole_and_both_sides_hear_that_tiles_are_accepted() -> None:
    node = running()
    for tile in range(3):
        said = result(node, tile)
        assert {p.levels["node"] for p in published(said, topics.ACCEPTED)} == {"edge1", "edge2"}
        assert not [a for a in said if isinstance(a, Finish)]
    (finish,) = [a for a in result(node, 3) if isinstance(a, Finish)]
    assert set(finish.complete.tiles) == {(0, tile) for tile in range(4)}


def test_a_frame_ends_once() -> None:
    node = running()
    for tile in range(4):
        result(node, tile)
    said = node.finished(FRAME, {"cut/max1": "0" * 32}, 2.0)
    (outcome,) = published(said, topics.OUTCOME)
    assert outcome.message.status == "ok" and outcome.message.computed == {"edge2": 4} == outcome.message.stolen
    (ended,) = published(said, topics.ACCEPTED)
    assert ended.message.ended and ended.levels == {"node": "edge1"}
    assert not node.failed(FRAME, "too late", 3.0)


def test_a_result_that_no_message_carries_is_a_failure_that_says_so() -> None:
    node = running()
    for tile in range(4):
        result(node, tile)
    seen = tuple(Detection(label="l" * 600, index=0, score=1 / 3, box=(1 / 3,) * 4) for _ in range(1000))
    (outcome,) = published(node.finished(FRAME, {}, 2.0, Result(task="detect", detections=seen)), topics.OUTCOME)
    assert outcome.message.status == "failed" and "max_detections" in outcome.message.reason
    assert not node.failed(FRAME, "too late", 3.0) and node.counts["frames"] == 0


def test_a_result_of_as_many_objects_as_a_card_may_ask_for_is_told() -> None:
    node = running()
    for tile in range(4):
        result(node, tile)
    seen = tuple(Detection(label="l" * 64, index=0, score=1 / 3, box=(1 / 3,) * 4) for _ in range(1000))
    (outcome,) = published(node.finished(FRAME, {}, 2.0, Result(task="detect", detections=seen)), topics.OUTCOME)
    assert outcome.message.status == "ok" and len(encode(topics.OUTCOME, outcome.message)) > 2 * 64 * 1024


def test_a_late_result_of_an_ended_frame_is_answered_so_that_its_sender_stops() -> None:
    node = running()
    for tile in range(4):
        result(node, tile)
    node.finished(FRAME, {}, 2.0)
    said = result(node, 2, now=3.0)
    assert all(p.message.ended for p in published(said, topics.ACCEPTED)) and published(said, topics.ACCEPTED)


def test_a_result_of_a_wrong_shape_is_rejected_and_changes_nothing() -> None:
    node = running()
    header = m.ResultHeader(node="edge2", epoch="22222222", plan=node.digest, frame=FRAME, block=0, tile=1)
    with pytest.raises(DecodeError, match="tensor max1 of tile 1"):
        node.hear(heard(topics.RESULT, header, {"max1": outputs(PLAN, 0)["max1"][:, 1:]}), 1.0)
    for tile in (0, 2, 3):
        assert not [a for a in result(node, tile) if isinstance(a, Finish)]


def test_a_result_of_a_node_that_never_registered_does_not_count() -> None:
    node = running()
    assert not result(node, 0, worker="stranger", epoch="99999999")


def test_a_node_with_other_kernels_is_refused_and_gets_no_tile() -> None:
    node = gateway()
    (echo,) = published(register(node, "edge2", "22222222", runtime="other kernels"), topics.ECHO)
    assert "their bits differ" in echo.message.refused
    assert node.ring.nodes == {}


def test_a_refusal_in_the_longest_words_is_a_message() -> None:
    words = " ".join(f"{kind}={'f' * 60}" for kind in ("a", "b", "c"))
    node = GatewayNode("gateway", "aaaaaaaa", PLAN.model_copy(update={"runtime": f"test kernels {words}"}))
    for runtime in ("r" * 200, "test kernels " + words.replace("f", "0")[:180]):
        (echo,) = published(register(node, "e" * 64, "22222222", runtime=runtime), topics.ECHO)
        assert 200 < len(echo.message.refused) <= 500


def test_a_node_is_refused_for_the_arithmetic_of_the_model_alone_and_told_by_name() -> None:
    """A Pi 3 among Pi 4s: it computes another uint8."""
    pi3 = "test kernels float32=02f8515f uint8=955d0941"
    for asked in ("float32=02f8515f", "uint8=d5fa9f1d"):
        node = GatewayNode("gateway", "aaaaaaaa", small_plan(f"test kernels {asked}"), deadline_s=30.0)
        (echo,) = published(register(node, "edge2", "22222222", runtime=pi3), topics.ECHO)
        assert ("edge2" in node.ring.nodes) == (not echo.message.refused) == (asked[:5] == "float")
    assert "other uint8 bits" in echo.message.refused and "use an int8 or float32 model" in echo.message.refused


def test_a_silent_source_fails_its_frames_with_the_reason() -> None:
    node = running()
    register(node, "edge2", "22222222", now=5.0)
    deadline = node.deadline()
    assert deadline == 6.0
    (outcome,) = published(node.tick(deadline), topics.OUTCOME)
    assert outcome.message.status == "failed" and "source lost" in outcome.message.reason


def test_a_frame_that_takes_too_long_fails() -> None:
    node = running()
    said: list[object] = []
    for now in range(1, 31):
        register(node, "edge1", "11111111", 0, (FRAME,), float(now))
        said += node.tick(float(now))
    (outcome,) = published(said, topics.OUTCOME)
    assert "deadline of 30.0 s passed with 0 of 4 tiles" in outcome.message.reason


def test_an_engine_error_of_its_source_fails_the_frame_and_names_the_node() -> None:
    node = running()
    (outcome,) = published(error(node, 1, "edge1", "11111111"), topics.OUTCOME)
    assert outcome.message.reason == "model error on edge1: out of memory"


def test_an_undivided_frame_of_which_a_tile_is_here_fails_with_its_source_s_engine() -> None:
    node = running()
    result(node, 0)
    (outcome,) = published(error(node, 0, "edge1", "11111111", whole=True), topics.OUTCOME)
    assert outcome.message.reason.startswith("model error on edge1")


def test_a_leaving_source_fails_what_it_leaves_behind() -> None:
    node = running()
    (outcome,) = published(register(node, "edge1", "11111111", leaving=True, now=1.0), topics.OUTCOME)
    assert outcome.message.status == "failed" and "edge1" not in node.ring.nodes


def test_frames_of_one_source_are_finished_in_order_where_the_tail_keeps_state() -> None:
    node = GatewayNode("gateway", "aaaaaaaa", PLAN, deadline_s=30.0, ordered=True)
    frames = ("edge1-11111111-9", "edge1-11111111-10")
    register(node, "edge1", "11111111", 4, ("edge1-11111111-0",))
    node.failed("edge1-11111111-0", "lost", 0.0)
    register(node, "edge1", "11111111", 4, frames)
    register(node, "edge2", "22222222")
    for tile in range(4):
        assert not [a for a in result(node, tile, frame=frames[1]) if isinstance(a, Finish)]
    (keep, outcome, ended, finish) = node.failed(frames[0], "lost", 2.0)
    assert isinstance(finish, Finish) and finish.complete.frame == frames[1] and finish.picture == (48, 64)
    assert isinstance(keep, Keep) and isinstance(outcome, Publish) and keep.outcome == outcome.message
    del ended


def test_an_undivided_frame_is_whole_with_one_result() -> None:
    node = running()
    maps = {s.name: np.arange(np.prod(s.shape), dtype=s.dtype).reshape(s.shape) for s in PLAN.blocks[0].cut}
    header = m.ResultHeader(
        node="edge1", epoch="11111111", plan=node.digest, frame=FRAME, block=0, tile=0, whole=True
    )  # fmt: skip
    said = node.hear(heard(topics.RESULT, header, maps), 1.0)
    (finish,) = [a for a in said if isinstance(a, Finish)]
    (accepted,) = published(said, topics.ACCEPTED)
    assert accepted.message.tiles == (0, 1, 2, 3) and finish.complete.computed == {"edge1": 4}
    for tile in PLAN.blocks[0].tiles:
        (name, box), *_ = tile.outputs.items()
        assert (finish.complete.tiles[0, tile.home][name] == crop(maps[name], box)).all()


def test_whole_maps_of_another_shape_are_refused() -> None:
    header = m.ResultHeader(
        node="edge2", epoch="22222222", plan=PLAN.digest(), frame=FRAME, block=0, tile=0, whole=True
    )  # fmt: skip
    with pytest.raises(DecodeError, match="tensor max1 of the whole frame is"):
        running().hear(heard(topics.RESULT, header, outputs(PLAN, 0)), 1.0)


def test_a_result_of_a_block_before_the_last_counts_for_nothing() -> None:
    plan = blocks_plan()
    node = GatewayNode("gateway", "aaaaaaaa", plan, deadline_s=30.0)
    register(node, "edge1", "11111111", 4, (FRAME,))
    maps = {name: np.zeros(box.shape, np.float32) for name, box in plan.blocks[0].tiles[0].outputs.items()}
    header = m.ResultHeader(node="edge1", epoch="11111111", plan=node.digest, frame=FRAME, block=0, tile=0)
    with pytest.raises(DecodeError, match="answers for nothing"):
        node.hear(heard(topics.RESULT, header, maps), 1.0)
    assert node.assembly.frames == (FRAME,)


def test_the_echo_counts_cameras_and_helpers() -> None:
    node = running()
    message = m.Register(
        node="edge1", epoch="11111111", seq=2, runtime="test kernels", plan=node.digest, camera=True
    )  # fmt: skip
    (echo,) = published(node.hear(heard(topics.REGISTER, message), 1.0), topics.ECHO)
    assert (echo.message.cameras, echo.message.helpers) == (1, 1)


def refusal(actions: list[object]) -> str:
    (echo,) = published(actions, topics.ECHO)
    return str(echo.message.refused)


def test_a_cloned_node_is_refused_as_long_as_the_one_before_lives() -> None:
    node = gateway()
    register(node, "edge1", "11111111", machine="aa")
    said = register(node, "edge1", "22222222", waiting=4, frames=("edge1-22222222-0",), now=1.0, machine="bb")
    assert "another machine has the same name" in refusal(said) and "--name" in refusal(said)
    assert "edge1-22222222-0" not in node.assembly.frames
    assert not refusal(register(node, "edge1", "11111111", now=2.0, machine="aa"))
    node.tick(20.0)
    assert not refusal(register(node, "edge1", "22222222", now=20.0, machine="bb"))


def test_a_node_that_restarted_on_its_machine_or_tells_none_is_welcome_at_once() -> None:
    node = gateway()
    register(node, "edge1", "11111111", machine="aa")
    assert not refusal(register(node, "edge1", "22222222", now=0.1, machine="aa"))
    assert not refusal(register(node, "edge1", "33333333", now=0.2))


def test_a_name_is_free_again_when_its_node_has_left() -> None:
    node = gateway()
    register(node, "edge1", "11111111", machine="aa")
    register(node, "edge1", "11111111", leaving=True, machine="aa")
    assert not refusal(register(node, "edge1", "22222222", now=0.1, machine="bb"))


def test_of_two_processes_with_one_name_on_a_machine_the_first_is_told() -> None:
    node = gateway()
    register(node, "edge1", "11111111", machine="aa")
    assert not refusal(register(node, "edge1", "22222222", now=1.0, machine="aa"))
    assert "another process on this machine" in refusal(register(node, "edge1", "11111111", now=2.0, machine="aa"))
    assert not refusal(register(node, "edge1", "22222222", now=3.0, machine="aa"))


def error(
    node: GatewayNode, tile: int, worker: str, epoch: str, frame: str = FRAME, whole: bool = False
) -> list[object]:
    header = m.ResultHeader(
        node=worker, epoch=epoch, plan=node.digest, frame=frame, block=0, tile=tile, whole=whole, error="out of memory"
    )
    return list(node.hear(heard(topics.RESULT, header), 2.0))


def test_an_undivided_frame_fills_in_what_thieves_have_not_computed() -> None:
    node = running()
    result(node, 3)
    maps = {s.name: np.zeros(s.shape, s.dtype) for s in PLAN.blocks[0].cut}
    header = m.ResultHeader(
        node="edge1", epoch="11111111", plan=node.digest, frame=FRAME, block=0, tile=0, whole=True
    )  # fmt: skip
    (finish,) = [a for a in node.hear(heard(topics.RESULT, header, maps), 1.0) if isinstance(a, Finish)]
    assert finish.complete.computed == {"edge1": 3, "edge2": 1}


def test_a_failure_at_a_tile_that_another_has_computed_is_no_failure_of_the_frame() -> None:
    node = running()
    result(node, 1)
    said = error(node, 1, "edge1", "11111111")
    assert not published(said, topics.OUTCOME) and published(said, topics.ACCEPTED)
    for tile in (0, 2, 3):
        said = result(node, tile)
    assert [a for a in said if isinstance(a, Finish)]
    assert not published(error(node, 1, "edge1", "11111111"), topics.OUTCOME)
    assert published(node.finished(FRAME, {}, 3.0), topics.OUTCOME)


def test_only_its_source_fails_a_frame_and_answers_for_it_undivided() -> None:
    node = running()
    said = error(node, 1, "edge2", "22222222")
    maps = {s.name: np.zeros(s.shape, s.dtype) for s in PLAN.blocks[0].cut}
    whole = m.ResultHeader(node="edge2", epoch="22222222", plan=node.digest, frame=FRAME, block=0, tile=0, whole=True)
    said += node.hear(heard(topics.RESULT, whole, maps), 1.0)
    told = published(said, topics.ACCEPTED)
    assert [(a.levels["node"], a.message.ended) for a in told] == [("edge2", False)] * 2, "it need not say it again"
    assert len(said) == 2 and node.assembly.frames == (FRAME,) and node.assembly.lacks(FRAME, 0, 1)


def test_a_tile_that_was_not_lent_to_a_node_is_not_answered_by_it() -> None:
    node = running()
    node.grants.add([Forward("edge9", "99999999", "edge2", "22222222", "0000000b", False)])  # another source's
    node.grants.add([Forward("edge1", "11111111", "edge3", "33333333", "0000000c", False)])  # another's request
    for request in (None, "0000000a", "0000000b", "0000000c"):
        header = m.ResultHeader(
            node="edge2", epoch="22222222", plan=node.digest, frame=FRAME, block=0, tile=1, request=request
        )
        (only,) = published(said := node.hear(heard(topics.RESULT, header, outputs(PLAN, 1)), 1.0), topics.ACCEPTED)
        assert len(said) == 1 and only.levels == {"node": "edge2"} and node.assembly.lacks(FRAME, 0, 1)
    assert node.counts["result of a tile that was not lent"] == 4


def test_a_request_brings_one_tile() -> None:
    node = running()
    result(node, 1)
    for tile, lacks in ((1, False), (2, True)):
        header = m.ResultHeader(
            node="edge2", epoch="22222222", plan=node.digest, frame=FRAME, block=0, tile=tile, request="00000001"
        )
        node.hear(heard(topics.RESULT, header, outputs(PLAN, tile)), 1.0)
        assert node.assembly.lacks(FRAME, 0, tile) == lacks


def test_a_result_waits_a_moment_for_its_source_s_word_and_then_counts_from_there() -> None:
    node, other = running(), "edge1-11111111-7"
    assert not [a for tile in range(4) for a in result(node, tile, frame=other)] and node.assembly.frames == (FRAME,)
    said = register(node, "edge1", "11111111", 4, (FRAME, other), 3.0)
    assert [a.complete.frame for a in said if isinstance(a, Finish)] == [other]
    assert len([a for a in said if isinstance(a, Counted)]) == 4
    (ended,) = published(node.finished(other, {}, 4.0), topics.OUTCOME)
    assert ended.message.latency_s == 1.0 and ended.message.picture == (48, 64)


def test_what_no_source_announces_comes_to_nothing_and_its_sender_hears_that_it_may_stop() -> None:
    node, huge = running(), "edge1-11111111-999999999999"
    for tile in range(4):
        result(node, tile, frame=huge)
    error(node, 1, "edge2", "22222222", "edge1-11111111-7")
    error(node, 1, "edge1", "11111111", "edge1-11111111-8")  # its source: it will announce it, or has died
    for now in (2.0, 4.0, 6.0):
        register(node, "edge1", "11111111", 4, (FRAME,), now)
        register(node, "edge2", "22222222", 0, (), now)
    said = node.tick(2.0 + HELD_S)
    assert [a.levels["node"] for a in published(said, topics.ACCEPTED)] == ["edge2"] * 5 and len(said) == 5
    assert node.assembly.frames == (FRAME,) and node.counts["result of a frame that was not announced"] == 6
    register(node, "edge1", "11111111", 4, (FRAME, "edge1-11111111-1"), 8.0)
    assert "edge1-11111111-1" in node.assembly.frames, "numbers run on"


def test_what_waits_is_bounded_for_each_node_and_pushes_out_nobody_else_s() -> None:
    node = running()
    register(node, "edge3", "33333333")
    result(node, 0, worker="edge3", epoch="33333333", frame="edge1-11111111-1")
    for number in range(2, 100):
        result(node, 0, frame=f"edge1-11111111-{number}")
    assert [len(own) for own in node.early._held.values()] == [1, RESULTS]
    big, header = np.zeros(BYTES // 2 + 1, np.uint8), m.ResultHeader(
        node="edge2", epoch="22222222", plan=node.digest, frame="edge1-11111111-100", block=0, tile=0
    )
    for frame in (100, 101):
        node.early.put(header.model_copy(update={"frame": f"edge1-11111111-{frame}"}), {"x": big}, 2.0)
    assert node.early.nbytes < BYTES and len(node.early._held["edge3"]) == 1


def test_what_a_source_distrusts_is_named_once_fails_its_open_frames_and_counts_for_it_no_more() -> None:
    node = running()
    register(node, "edge4", "44444444", 4, ("edge4-44444444-0",))
    result(node, 1)
    message = m.Register(node="edge1", epoch="11111111", seq=2, runtime="test kernels", plan=node.digest, waiting=4,
                         frames=(FRAME,), distrusts=("edge2",))  # fmt: skip
    said = node.hear(heard(topics.REGISTER, message), 2.0)
    assert [a for a in said if isinstance(a, Distrusted)] == [Distrusted("edge2", "edge1")]
    (outcome,) = published(said, topics.OUTCOME)
    assert outcome.message.reason == "bits of edge2 were wrong"
    following = "edge1-11111111-1"
    again = message.model_copy(update={"frames": (following,)})
    assert not [a for a in node.hear(heard(topics.REGISTER, again), 3.0) if isinstance(a, Distrusted)]
    result(node, 0, frame=following)
    assert node.assembly.lacks(following, 0, 0) and node.counts["result of a tile that was not lent"] == 1
    ask = m.VictimRequest(node="edge2", epoch="22222222", plan=node.digest, request="0000000a")
    (steal,) = published(node.hear(heard(topics.VICTIM_REQ, ask), 3.1), topics.STEAL)
    assert steal.levels == {"node": "edge4"}, "who has not judged it may lend to it"


def test_a_frame_in_the_tail_that_holds_wrong_bits_fails_and_does_not_end_again() -> None:
    node = running()
    for tile in range(4):
        result(node, tile)
    message = m.Register(node="edge1", epoch="11111111", seq=2, runtime="test kernels", plan=node.digest, waiting=4,
                         frames=(FRAME,), distrusts=("edge2",))  # fmt: skip
    (outcome,) = published(node.hear(heard(topics.REGISTER, message), 2.0), topics.OUTCOME)
    assert outcome.message.reason == "bits of edge2 were wrong" and not node.finished(FRAME, {}, 3.0)


def test_how_a_frame_ends_is_kept_before_it_is_said() -> None:
    (keep, outcome, _) = running().failed(FRAME, "lost", 2.0)
    assert isinstance(keep, Keep) and isinstance(outcome, Publish) and keep.outcome == outcome.message


def after(ended: m.Outcome | None) -> GatewayNode:
    """A gateway that takes up after one that had ended ``FRAME``."""
    return GatewayNode("gateway", "bbbbbbbb", PLAN, 30.0, before=Before({FRAME: ended}))


def outcome() -> m.Outcome:
    return m.Outcome(node="gateway", epoch="aaaaaaaa", frame=FRAME, status="failed", reason="lost", latency_s=1.0)


def test_a_frame_that_ended_before_the_restart_never_opens_again() -> None:
    node = after(None)
    said = register(node, "edge1", "11111111", 4, (FRAME,))
    assert not published(said, topics.OUTCOME)
    (ended,) = published(said, topics.ACCEPTED)
    assert ended.message.ended and node.assembly.frames == ()
    (accepted,) = published(result(node, 1, "edge1", "11111111"), topics.ACCEPTED)
    assert accepted.message.ended


def test_what_a_killed_gateway_could_not_say_is_said_once_when_the_source_still_waits_for_it() -> None:
    node = after(outcome())
    (said,) = published(register(node, "edge1", "11111111", 4, (FRAME,)), topics.OUTCOME)
    assert said.message == outcome().model_copy(update={"epoch": "bbbbbbbb"})
    assert not published(register(node, "edge1", "11111111", 4, (FRAME,)), topics.OUTCOME)


def test_what_the_source_has_heard_is_not_said_again() -> None:
    node = after(outcome())
    register(node, "edge1", "11111111", 0, ())  # says nothing of it: this may be an old heartbeat
    register(node, "edge1", "11111111", 4, ("edge1-11111111-1",))
    assert not published(register(node, "edge1", "11111111", 4, (FRAME,)), topics.OUTCOME)


def test_the_state_of_a_source_that_is_lost_fails_its_open_frames_by_name_and_begins_anew() -> None:
    node = GatewayNode("gateway", "bbbbbbbb", PLAN, 30.0, ordered=True, before=Before({FRAME: outcome()}))
    frames = tuple(f"edge1-11111111-{number}" for number in (1, 2))
    register(node, "edge1", "11111111", 0, (FRAME,))  # this one has ended: it does not count
    said = published(register(node, "edge1", "11111111", 4, frames), topics.OUTCOME)
    assert [a.message.frame for a in said] == list(frames)
    assert all(a.message.reason.startswith("gateway restarted: what the model remembers of edge1") for a in said)
    assert not published(register(node, "edge1", "11111111", 4, ("edge1-11111111-3",)), topics.OUTCOME)
    assert node.assembly.frames == ("edge1-11111111-3",)


def test_no_frame_of_a_recurrent_model_is_finished_before_its_source_is_known() -> None:
    node = GatewayNode("gateway", "bbbbbbbb", PLAN, 30.0, ordered=True)
    register(node, "edge2", "22222222")
    assert not [a for tile in range(4) for a in result(node, tile) if isinstance(a, Finish)]
    assert [a for a in register(node, "edge1", "11111111", 4, (FRAME,)) if isinstance(a, Finish)]


def test_a_frame_of_a_recurrent_model_waits_until_its_source_has_told_of_those_before_it() -> None:
    node = GatewayNode("gateway", "bbbbbbbb", PLAN, 30.0, ordered=True)
    frames = tuple(f"edge1-11111111-{number}" for number in range(3))

    def finished(number: int) -> list[str]:
        said = [a for tile in range(4) for a in result(node, tile, frame=frames[number])]
        return [a.complete.frame for a in said if isinstance(a, Finish)]

    register(node, "edge2", "22222222")
    register(node, "edge1", "11111111", 4, frames[:1])
    assert finished(0) == [frames[0]]
    assert not finished(2)  # nobody has said yet whether there is a frame 1
    assert not [a for a in register(node, "edge1", "11111111", 4, frames) if isinstance(a, Finish)]
    register(node, "edge1", "11111111", 4, frames[1:2])  # an old heartbeat takes nothing back
    assert finished(1) == [frames[1], frames[2]]


def test_silence_of_everybody_is_doubted_ever_less_often() -> None:
    node, reconnects = gateway(), []
    node.connected(0.0)
    while (now := node.deadline() or 1e9) < 300.0:
        reconnects += [now for a in node.tick(now) if isinstance(a, Reconnect)]
    assert reconnects == [15.0, 45.0, 105.0, 225.0]
    register(node, "edge1", "11111111", now=300.0)
    (said,) = [a for a in node.tick(306.0) if isinstance(a, Reconnect)]  # the last node is gone: is it us?
    register(node, "edge1", "11111111", now=307.0)
    register(node, "edge1", "11111111", now=308.0, leaving=True)
    assert said == Reconnect() and node.deadline() is None


def test_a_source_may_want_its_frames_sooner_and_its_tiles_first() -> None:
    node = gateway()
    message = m.Register(node="edge1", epoch="11111111", seq=1, runtime="test kernels", frames=(FRAME,), deadline_s=2.0)
    node.hear(heard(topics.REGISTER, message), 0.0)
    assert node.deadline() == 2.0
    (outcome,) = published(node.tick(2.0), topics.OUTCOME)
    assert outcome.message.reason == "deadline of 2.0 s passed with 0 of 4 tiles"
    for name, priority in (("edge2", 0), ("edge3", 5)):
        waiting = m.Register(node=name, epoch="22222222", seq=1, runtime="test kernels", waiting=2, priority=priority)
        node.hear(heard(topics.REGISTER, waiting), 2.0)
    request = m.VictimRequest(node="edge1", epoch="11111111", plan=node.digest, request="0000000a")
    (steal,) = published(node.hear(heard(topics.VICTIM_REQ, request), 2.1), topics.STEAL)
    assert steal.levels == {"node": "edge3"}


@pytest.mark.parametrize("known", [True, False])
def test_a_whole_frame_has_the_priority_of_its_source(known: bool) -> None:
    node = running()
    if known:
        message = m.Register(node="edge1", epoch="11111111", seq=2, runtime="test kernels", frames=(FRAME,), priority=7)
        node.hear(heard(topics.REGISTER, message), 0.5)
    (finish,) = [a for tile in range(4) for a in result(node, tile) if isinstance(a, Finish)]
    assert finish.priority == (7 if known else 0)


@pytest.mark.parametrize("asks", [True, False])
def test_a_source_hears_what_its_frame_shows_if_it_asks(asks: bool) -> None:
    node, seen = gateway(), Result(task="detect")
    about = {"seq": 1, "runtime": "test kernels", "plan": node.digest, "frames": (FRAME,), "waiting": 4, "answers": asks}
    node.hear(heard(topics.REGISTER, m.Register(node="edge1", epoch="11111111", **about)), 0.0)  # type: ignore[arg-type]
    register(node, "edge2", "22222222")
    for tile in range(4):
        result(node, tile)
    said = node.finished(FRAME, {}, 2.0, seen)
    (accepted,) = published(said, topics.ACCEPTED)
    assert accepted.levels == {"node": "edge1"} and accepted.message.ended
    assert accepted.message.result == (seen if asks else None)
