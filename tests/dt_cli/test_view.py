"""What is shown of a cluster, from messages."""

from dt_cli.view import View, failure
from schemas.contract import messages as m

VITALS = m.Vitals(cpu=0.5, temperature_c=61.2, memory_bytes=90_000_000, throttled=False)


def register(node: str, **more: object) -> m.Register:
    return m.Register.model_validate({"node": node, "epoch": "11111111", "seq": 1, "runtime": "litert", **more})


def status(node: str, **more: object) -> m.Status:
    return m.Status.model_validate({"node": node, "epoch": "11111111", "vitals": VITALS, **more})


def outcome(number: int, state: str = "ok", latency_s: float = 0.2) -> m.Outcome:
    told = {"node": "gateway", "epoch": "aaaaaaaa", "frame": f"cam-11111111-{number}", "status": state}
    return m.Outcome.model_validate({**told, "latency_s": latency_s, "reason": "source lost" if state != "ok" else ""})


def view(*messages: m.Message, now: float = 100.0) -> View:
    made = View("dt", "pi:1883")
    for message in messages:
        made.hear(message, now)
    return made


def test_the_gateway_comes_first_and_a_node_with_a_source_is_a_camera() -> None:
    seen = view(register("b"), register("a", camera=True, machine="ab"), status("gateway"))
    assert [(r["node"], r["role"], r["state"]) for r in seen.rows(101.0)] == [
        ("gateway", "gateway", "online"), ("a", "camera", "online"), ("b", "helper", "online")
    ]  # fmt: skip
    assert seen.rows(101.0)[1]["machine"] == "ab" and "tiles" not in seen.rows(101.0)[1]


def test_a_row_holds_what_a_node_tells() -> None:
    told = status("a", computed=5, stolen=3, tile_s=0.0305, waiting=2, version="0.1.0", source="dir:///x", frames=7)
    row = view(register("a"), told).rows(100.0)[0]
    assert {key: row[key] for key in ("tiles", "stolen", "tile_ms", "queue", "cpu", "temperature_c", "frames")} == {
        "tiles": 8, "stolen": 3, "tile_ms": 30.5, "queue": 2, "cpu": 0.5, "temperature_c": 61.2, "frames": 7
    }  # fmt: skip
    assert row["memory_bytes"] == 90_000_000 and row["version"] == "0.1.0" and row["source"] == "dir:///x"


def test_each_edge_says_with_how_many_others_it_speaks_straight() -> None:
    told = (status("a", straight=("b",)), status("b"), status("gateway"))
    seen = view(register("a"), register("b"), register("c", leaving=True), *told)
    cells = {row[0]: row[8] for row in zip(*(column.cells for column in seen.table(100.0, 200).columns))}
    assert cells == {"gateway": "-", "a": "1/1", "b": "0/1", "c": "-"}


def test_a_node_is_silent_after_three_heartbeats_and_the_gateway_after_three_statuses() -> None:
    seen = view(register("a"), status("gateway"))

    def states(now: float) -> dict[str, str]:
        return {r["node"]: r["state"] for r in seen.rows(now)}

    assert states(106.0) == {"gateway": "online", "a": "online"}
    assert states(106.1) == {"gateway": "online", "a": "silent"}
    assert states(130.1) == {"gateway": "silent", "a": "silent"}


def test_a_node_that_fetches_its_model_says_how_much_of_it_is_here() -> None:
    seen = view(status("a", fetched=0.345))
    assert [r["state"] for r in seen.rows(110.0)] == ["fetching 34%"] and seen.rows(131.0)[0]["state"] == "silent"
    seen.hear(status("a"), 132.0)
    assert [r["state"] for r in seen.rows(132.0)] == ["online"]


def test_a_node_that_left_or_is_throttled_says_so() -> None:
    hot = VITALS.model_copy(update={"throttled": True})
    seen = view(register("a", leaving=True), register("b"), status("b", vitals=hot))
    assert [r["state"] for r in seen.rows(100.0)] == ["left", "throttled"]
    assert "1 nodes" in seen.headline(100.0)


def test_it_is_complete_with_the_gateway_and_a_status_of_each() -> None:
    assert not view().complete and not view(register("a"), status("a")).complete
    assert not view(register("a"), status("gateway")).complete
    assert view(register("a"), status("gateway"), status("a")).complete


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    seen = view()
    for i in range(40):
        seen.hear(outcome(i), 100.0 + i)
    assert seen.fps(139.0) == 1.1 and seen.fps(149.5) == 0.0 and seen.ended == 40
    assert len(seen.last) == 8


def test_the_latency_is_the_median_and_failures_are_counted() -> None:
    seen = view(outcome(0, latency_s=0.1), outcome(1, "failed", 9.0), outcome(2, latency_s=0.3))
    assert seen.latency_s == 0.3 and seen.failed == 1
    assert "latency 300 ms, 3 frames, 1 failed" in seen.headline(100.0) and "broker" not in seen.headline(100.0)
    seen.connected = False
    assert seen.headline(100.0).endswith("the broker is gone, trying again")


def test_a_failure_is_said_at_once_and_a_result_is_not() -> None:
    assert failure(outcome(1, "failed")) == "cam     1     200 ms  FAILED: source lost"
    assert failure(outcome(1)) is None and failure(register("a")) is None


def test_a_narrow_terminal_leaves_out_what_is_the_same_for_most() -> None:
    seen = view(register("a"))
    assert len(seen.table(100.0, 160).columns) == len(seen.table(100.0, 80).columns) + 2
