from pathlib import Path

import pytest

from gateway_agent.replan import AGAIN_S, RATE_MBIT, SETTLE_S, Member, Replanner, better, cluster_of
from models.bundle import make_bundle
from models.graph.build import build
from models.planning.cluster import CORE_FLOPS_S
from models.planning.cost import predict
from models.planning.search import OBJECTIVES
from schemas.contract.config import GatewayOptions
from schemas.contract.messages import Register

SPEED = 10e9  # of the gateway, FLOP/s


def hear(
    replanner: Replanner, *nodes: str, flops_s: float = 10e9, bytes_s: float = 0.0, message_speed: float = 0.0
) -> None:
    """Heartbeats; a name with a ``*`` has a camera."""
    for node in nodes:
        replanner.hear(
            Register(node=node.strip("*"), epoch="11111111", seq=1, runtime="test", camera="*" in node,
                     flops_s=flops_s, bytes_s=bytes_s, message_speed=message_speed)
        )  # fmt: skip


def names(members: tuple[Member, ...] | None) -> list[str]:
    return [member.name for member in members or ()]


def settled(replanner: Replanner, nodes: set[str], now: float) -> list[str]:
    """For whom a plan is due after nothing more has happened for long enough."""
    assert replanner.due(nodes, now) is None
    members = replanner.due(nodes, now + SETTLE_S)
    if members is not None:
        replanner.planned(members, now + SETTLE_S)
    return names(members)


def test_a_plan_is_due_when_a_change_has_lasted_and_then_no_more() -> None:
    replanner = Replanner()
    hear(replanner, "b", "c*", "a")
    assert replanner.due({"a", "b", "c"}, 0.0) is None
    assert replanner.due({"a", "b", "c"}, SETTLE_S - 0.01) is None
    members = replanner.due({"a", "b", "c"}, SETTLE_S)
    assert names(members) == ["c", "a", "b"]  # the camera first
    assert members is not None
    replanner.planned(members, SETTLE_S)
    assert replanner.due({"a", "b", "c"}, 1000.0) is None


def test_every_change_begins_the_wait_anew() -> None:
    replanner = Replanner()
    hear(replanner, "a*", "b")
    assert replanner.due({"a", "b"}, 0.0) is None
    hear(replanner, "c")
    assert replanner.due({"a", "b", "c"}, SETTLE_S) is None
    assert names(replanner.due({"a", "b", "c"}, 2 * SETTLE_S)) == ["a", "b", "c"]


def test_a_node_that_is_back_before_the_wait_is_over_changes_nothing() -> None:
    replanner = Replanner()
    hear(replanner, "a*", "b")
    settled(replanner, {"a", "b"}, 0.0)
    late = SETTLE_S + AGAIN_S
    assert replanner.due({"a"}, late) is None
    hear(replanner, "b")
    assert replanner.due({"a", "b"}, late + 5) is None
    assert replanner.due({"a", "b"}, late + 100) is None


def test_plans_are_apart() -> None:
    replanner = Replanner()
    hear(replanner, "a*", "b")
    assert settled(replanner, {"a", "b"}, 0.0) == ["a", "b"]
    assert replanner.due({"a"}, SETTLE_S + 1) is None
    assert replanner.due({"a"}, SETTLE_S + AGAIN_S - 1) is None
    assert names(replanner.due({"a"}, SETTLE_S + AGAIN_S)) == ["a"]


@pytest.mark.parametrize(("factor", "due"), [(0.6, ["a", "b"]), (0.7, []), (1.4, []), (1.6, ["a", "b"])])
def test_a_node_that_turns_out_slower_or_faster_by_half_is_planned_for(factor: float, due: list[str]) -> None:
    replanner = Replanner()
    hear(replanner, "a*", "b")
    settled(replanner, {"a", "b"}, 0.0)
    hear(replanner, "b", flops_s=factor * 10e9)
    assert settled(replanner, {"a", "b"}, 500.0) == due
    hear(replanner, "a*", "b", message_speed=0.2)
    assert settled(replanner, {"a", "b"}, 1000.0) == ["a", "b"], "it was not known before"
    hear(replanner, "b", message_speed=factor * 0.2)
    assert settled(replanner, {"a", "b"}, 1500.0) == due


@pytest.mark.parametrize("nodes", [["a", "b"], []])
def test_without_a_camera_there_is_nothing_to_plan_for(nodes: list[str]) -> None:
    replanner = Replanner()
    hear(replanner, *nodes)
    assert settled(replanner, set(nodes), 0.0) == []


def test_a_node_of_unknown_speed_is_waited_for() -> None:
    replanner = Replanner()
    hear(replanner, "a*")
    hear(replanner, "b", flops_s=0.0)
    assert settled(replanner, {"a", "b"}, 0.0) == []


def test_the_links_rate_is_the_median_of_those_that_were_measured() -> None:
    members = (Member("a", True, 1e9, 1e6), Member("b", False, 2e9, 0.0), Member("c", False, 3e9, 3e6))
    cluster = cluster_of(members, 5e9)
    assert (cluster.speeds, cluster.sources, cluster.gateway_flops_s) == ((1e9, 2e9, 3e9), 1, 5e9)
    assert cluster.rate_mbit == pytest.approx(16.0)
    assert cluster.edge_message_speeds == tuple(s / CORE_FLOPS_S for s in cluster.speeds) and cluster.slice_s > 0
    assert cluster_of(members[1:2], 5e9).rate_mbit == RATE_MBIT


def test_how_fast_nodes_handle_messages_is_as_they_say_within_reason() -> None:
    replanner = Replanner()
    for node, claim in (("a*", 0.2), ("b", 1e15), ("c", 1e-300)):
        hear(replanner, node, message_speed=claim)
    replanner.due({"a", "b", "c"}, 0.0)
    cluster = cluster_of(replanner.due({"a", "b", "c"}, SETTLE_S) or (), 5e9, 0.5)
    assert cluster.edge_message_speeds == (0.2, 1e2, 1e-4) and cluster.gateways_message_speed == 0.5
    assert cluster.slice_s == 0  # they are slower machines, no shares of a fast core
    old = Register.model_validate_json('{"node": "d", "epoch": "11111111", "seq": 1, "runtime": "test", "flops_s": 1e9}')
    assert old.message_speed == 0.0


def test_tensors_go_straight_where_all_take_connections_and_who_begins_to_is_planned_for() -> None:
    replanner = Replanner(settle_s=0.0)

    def members(address: str | None, now: float) -> tuple[Member, ...] | None:
        for name, at in (("edge1", "10.0.0.1:4000"), ("edge2", address)):
            replanner.hear(
                Register(node=name, epoch="11111111", seq=1, runtime="test", camera=name == "edge1", flops_s=1e10, address=at)
            )
        return replanner.due(["edge1", "edge2"], now)

    one = members(None, 0.0)
    assert one is not None and not cluster_of(one, 1e9).direct
    replanner.planned(one, 0.0)
    assert members(None, 100.0) is None
    both = members("10.0.0.2:4000", 101.0)
    assert both is not None and cluster_of(both, 1e9).direct


def test_a_rate_once_measured_is_remembered() -> None:
    replanner = Replanner()
    hear(replanner, "a*", bytes_s=1e6)
    hear(replanner, "a*", bytes_s=0.0)
    replanner.due({"a"}, 0.0)
    (member,) = replanner.due({"a"}, SETTLE_S) or ()
    assert member.bytes_s == 1e6


def test_a_large_network_is_divided_and_a_good_plan_stays(tmp_path: Path) -> None:
    model = tmp_path / "yolov2.tflite"
    model.write_bytes(build("yolov2", size=416, layers=12).to_bytes())
    alone = make_bundle(model, (1, 1))
    members = tuple(Member(f"edge{i}", i == 0, 10e9, 125e6) for i in range(4))
    divided = better(alone, members, "latency", SPEED)
    assert divided is not None and len(divided.plan.blocks[0].tiles) > 1
    assert better(divided, members, "latency", SPEED) is None


def test_every_objective_of_the_planner_can_be_configured_and_memory_is_worth_another_plan(tmp_path: Path) -> None:
    for objective in OBJECTIVES:
        assert GatewayOptions(objective=objective).objective == objective  # type: ignore[arg-type]
    model = tmp_path / "alexnet.tflite"
    model.write_bytes(build("alexnet").to_bytes())
    members = tuple(Member(f"edge{i}", i == 0, 10e9, 125e6) for i in range(4))
    quick = make_bundle(model, (1, 1))
    small = better(quick, members, "memory", SPEED)
    assert small is not None
    cluster = cluster_of(members, SPEED)
    need = [max(predict(b.partition, b.plan, cluster).memory_bytes.values()) for b in (quick, small)]
    assert need[1] < need[0] / 2
    assert better(small, members, "memory", SPEED) is None


def test_as_many_cameras_as_nodes_are_judged_by_frames_a_second(tmp_path: Path) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini").to_bytes())
    cameras = tuple(Member(f"edge{i}", True, 1e9, 10e6) for i in range(3))
    plan = (better(make_bundle(model, (5, 5)), cameras, "latency", SPEED) or make_bundle(model, (5, 5))).plan
    assert plan.undivided


@pytest.mark.parametrize("claim", [5e-324, 1e15])
def test_a_node_that_claims_a_speed_beyond_all_machines_is_planned_for_without_a_fault(claim: float, tmp_path: Path) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=32, layers=4).to_bytes())
    replanner, bundle = Replanner(), make_bundle(model, (2, 2))
    hear(replanner, "a*")
    hear(replanner, "b", flops_s=claim, bytes_s=claim, message_speed=claim)
    assert replanner.due({"a", "b"}, 0.0) is None
    members = replanner.due({"a", "b"}, SETTLE_S)
    assert members is not None
    for objective in OBJECTIVES:
        better(bundle, members, objective, SPEED)
