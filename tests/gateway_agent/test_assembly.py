"""A frame merges once and whole, and ends exactly once."""

from gateway_agent.assembly import Assembly, Complete, Verdict

F0, F1, F2 = (f"cam-0000000a-{number}" for number in range(3))
NEW = "cam-0000000b-0"


TWO = ((0, 0), (0, 1))  # answers


def assembly(deadline_s: float = 120.0, memory: int = 4096) -> Assembly[str]:
    """One block of two tiles, two frames announced at 0 s."""
    frames: Assembly[str] = Assembly(TWO, deadline_s=deadline_s, memory=memory)
    frames.announce("cam", "0000000a", [F0, F1], 0.0)
    return frames


def give(frames: Assembly[str], frame: str, tile: int, worker: str = "thief") -> Verdict[str]:
    return frames.result(frame, 0, tile, worker, worker != "cam", f"{frame}/{tile}/{worker}")


def complete(frames: Assembly[str], frame: str) -> Complete[str]:
    give(frames, frame, 0)
    whole = give(frames, frame, 1).complete
    assert whole
    return whole


def test_a_frame_completes_with_its_last_tile() -> None:
    frames = assembly()
    assert give(frames, F0, 1, worker="cam") == Verdict(accepted=True)
    verdict = give(frames, F0, 0)
    assert verdict.accepted and not verdict.ended
    assert verdict.complete == Complete(
        F0, {(0, 0): f"{F0}/0/thief", (0, 1): f"{F0}/1/cam"}, {"cam": 1, "thief": 1}, {"thief": 1}, 0.0,
        {(0, 0): ("thief", True), (0, 1): ("cam", False)},
    )  # fmt: skip


def test_a_repeated_result_does_not_stand_for_a_missing_one() -> None:
    frames = assembly()
    give(frames, F0, 0)
    assert give(frames, F0, 0, worker="other") == Verdict(accepted=True)
    whole = give(frames, F0, 1).complete
    assert whole and whole.tiles[0, 0] == f"{F0}/0/thief"
    assert frames.ignored["result: repeated"] == 1


def test_a_frame_merges_once() -> None:
    frames = assembly()
    complete(frames, F0)
    assert give(frames, F0, 1) == Verdict(accepted=True)


def test_the_latency_runs_from_the_first_word_and_is_given_once() -> None:
    frames = assembly()
    complete(frames, F0)
    assert frames.ended(F0, 3.5) == 3.5
    assert frames.ended(F0, 4.0) is None
    assert frames.fail(F0, "model error", 4.0) is None


def test_a_result_of_an_ended_frame_tells_the_worker_to_stop() -> None:
    frames = assembly()
    complete(frames, F0)
    frames.ended(F0, 2.0)
    assert give(frames, F0, 0) == Verdict(accepted=True, ended=True)
    assert F0 not in frames.frames


def test_a_source_that_still_lists_an_ended_frame_is_told() -> None:
    frames = assembly()
    complete(frames, F0)
    frames.ended(F0, 2.0)
    assert frames.announce("cam", "0000000a", [F0, F1], 4.0).ended == (F0,)


def test_a_result_opens_no_frame_and_numbers_none() -> None:
    frames: Assembly[str] = Assembly(TWO, memory=0)
    huge = "cam-0000000a-999999999999"
    for tile in (0, 1):
        assert give(frames, huge, tile) == Verdict(accepted=False)
    assert frames.frames == () and frames.fail(huge, "any text", 1.0) is None and not frames.has_ended(huge)
    frames.announce("cam", "0000000a", [F0], 2.0)
    assert complete(frames, F0).frame == F0 and frames.ignored["result: not announced"] == 2


def test_a_frame_that_its_source_lists_no_longer_is_forgotten_without_an_outcome() -> None:
    frames = assembly(deadline_s=10.0)
    frames.announce("cam", "0000000a", [F1], 2.0)
    assert [f.frame for f in frames.expire(10.0)] == [F1]
    assert frames.frames == ()


def test_a_frame_that_its_source_lists_again_keeps_its_tiles() -> None:
    frames = assembly()
    give(frames, F0, 0)
    frames.announce("cam", "0000000a", [], 2.0)
    frames.announce("cam", "0000000a", [F0], 2.1)
    assert give(frames, F0, 1).complete
    assert [f.frame for f in frames.source_lost("cam", 3.0)] == []


def test_a_frame_that_is_not_whole_in_time_fails_on_time() -> None:
    frames = assembly(deadline_s=10.0)
    give(frames, F0, 0)
    assert frames.deadline() == 10.0
    assert frames.expire(9.999) == []
    failed = frames.expire(10.0)
    assert [(f.frame, f.latency_s) for f in failed] == [(F0, 10.0), (F1, 10.0)]
    assert failed[0].reason == "deadline of 10.0 s passed with 1 of 2 tiles"
    assert frames.expire(11.0) == [] and frames.deadline() is None


def test_a_frame_whose_tail_runs_fails_neither_by_time_nor_by_its_source() -> None:
    frames = assembly(deadline_s=10.0)
    complete(frames, F0)
    assert [f.frame for f in frames.source_lost("cam", 2.0)] == [F1]
    assert frames.expire(99.0) == []
    assert frames.ended(F0, 99.0) == 99.0


def test_a_tail_that_raises_fails_the_frame() -> None:
    frames = assembly()
    complete(frames, F0)
    failed = frames.fail(F0, "model error", 2.0)
    assert failed and (failed.reason, failed.latency_s) == ("model error", 2.0)
    assert frames.ended(F0, 3.0) is None


def test_frames_of_a_lost_source_fail_and_those_of_others_go_on() -> None:
    frames = assembly()
    frames.announce("other", "0000000a", ["other-0000000a-0"], 1.0)
    assert [f.frame for f in frames.source_lost("cam", 2.0)] == [F0, F1]
    assert frames.frames == ("other-0000000a-0",)


def test_frames_of_a_restarted_source_fail() -> None:
    frames = assembly()
    announced = frames.announce("cam", "0000000b", [NEW], 5.0)
    assert [f.reason for f in announced.failed] == ["source restarted with 0 of 2 tiles"] * 2
    assert frames.frames == (NEW,)


def test_a_stale_announcement_changes_nothing() -> None:
    frames = assembly()
    frames.announce("cam", "0000000b", [NEW], 5.0)
    late = frames.announce("cam", "0000000a", [F0, F1, F2], 6.0)
    assert late.ended == () and late.failed == () and frames.frames == (NEW,)
    assert frames.ignored["announced: stale epoch"] == 1
    assert give(frames, F0, 0) == Verdict(accepted=True, ended=True)


def test_a_living_source_is_heard_again_after_a_late_word_of_a_dead_epoch() -> None:
    frames: Assembly[str] = Assembly(TWO)
    frames.announce("cam", "0000000b", [NEW], 0.0)
    frames.announce("cam", "0000000a", [F0], 1.0)
    assert frames.announce("cam", "0000000b", [NEW], 2.0).ended == ()
    assert [f.frame for f in frames.source_lost("cam", 7.0)] == [F0]
    assert frames.announce("cam", "0000000b", [NEW, "cam-0000000b-1"], 8.0).ended == (NEW,)
    assert frames.frames == ("cam-0000000b-1",)


def test_what_a_source_says_of_other_sources_frames_is_ignored() -> None:
    frames = assembly()
    frames.announce("other", "0000000a", [F2], 1.0)
    assert F2 not in frames.frames and frames.ignored["announced: not its frame"] == 1


def test_a_tile_that_the_plan_does_not_have_is_not_accepted() -> None:
    frames = assembly()
    assert frames.result(F0, 0, 2, "thief", True, "") == Verdict(accepted=False)
    assert frames.result(F0, 1, 0, "thief", True, "") == Verdict(accepted=False)
    assert frames.ignored["result: no such tile"] == 2


def test_a_frame_is_whole_with_the_answers_of_all_its_blocks() -> None:
    frames: Assembly[str] = Assembly([(0, 0), (1, 2)])
    frames.announce("cam", "0000000a", [F0], 0.0)
    assert frames.result(F0, 0, 0, "cam", False, "x").complete is None
    whole = frames.result(F0, 1, 2, "cam", False, "y").complete
    assert whole and whole.tiles == {(0, 0): "x", (1, 2): "y"}


def test_beyond_its_memory_a_frame_stays_ended_by_its_number() -> None:
    frames = assembly(memory=1)
    frames.announce("cam", "0000000a", [F0, F1, F2], 0.0)
    for frame in (F0, F1, F2):
        complete(frames, frame)
        assert frames.ended(frame, 2.0) is not None
    assert give(frames, F0, 0).ended and give(frames, F1, 0).ended and give(frames, F2, 0).ended
    assert frames.announce("cam", "0000000a", [F0, F1, F2], 4.0).ended == (F0, F1, F2)


def test_an_open_frame_is_not_ended_by_the_number_of_a_younger_one() -> None:
    frames = assembly(memory=0)
    complete(frames, F1)
    frames.ended(F1, 2.0)
    assert complete(frames, F0).frame == F0
