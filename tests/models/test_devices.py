"""What plans gain on boards whose kernels and messages are slower than the reference core's by different factors."""

from dataclasses import replace

import pytest

from models.graph.build import build
from models.graph.file import load
from models.planning.cluster import Cluster
from models.planning.devices import DEVICES, device
from models.planning.search import best_plan
from models.tiling.partition import Partition
from schemas.contract.errors import PlanError
from tests.paths import shared


def cluster(name: str, nodes: int) -> Cluster:
    """So many of a board, and one as the gateway, at 60 Mbit/s."""
    kernels, messages = device(name)[:2]
    return Cluster((kernels,) * nodes, 60.0, kernels, (messages,) * nodes, messages, slice_s=0.0)


def gain(partition: Partition, many: Cluster) -> float:
    """Share of one node's latency that all together take."""
    alone = replace(many, speeds=many.speeds[:1], message_speeds=many.message_speeds[:1])
    of_one, of_all = (best_plan(partition, each).best.prediction.latency_s for each in (alone, many))
    return of_all / of_one


def test_a_small_detector_gains_by_six_boards_that_messages_priced_by_kernels_would_deny() -> None:
    ssd = Partition(load(shared("data/models/mediapipe/object_detection_ssd_mobilenetv2_oidv4_fp16.tflite")))
    boards = cluster("pi4-1", 6)
    assert gain(ssd, boards) < 0.9
    assert gain(ssd, replace(boards, message_speeds=(), gateway_message_speed=0.0)) == 1.0


def test_the_papers_network_gains_more_than_it_would_by_such_prices() -> None:
    yolo = Partition(build("yolov2", layers=16))
    boards = cluster("pi4-1", 6)
    assert gain(yolo, boards) < 0.33 < gain(yolo, replace(boards, message_speeds=(), gateway_message_speed=0.0))


def test_every_board_is_slower_than_the_next_and_at_kernels_more_than_at_messages() -> None:
    boards = [DEVICES[name + threads] for threads in ("", "-1") for name in ("pi3", "pi4", "pi5")]
    for slow, fast in zip(boards, boards[1:]):
        assert slow < fast or (slow, fast) == (DEVICES["pi5"], DEVICES["pi3-1"])
    for name in ("pi3", "pi4", "pi5"):
        assert DEVICES[f"{name}-1"].flops_s < DEVICES[name].flops_s < 4 * DEVICES[f"{name}-1"].flops_s
    with pytest.raises(PlanError, match="choose one of pi3, "):
        device("pi2")


def test_one_channel_for_all_costs_what_the_air_is_crossed_for() -> None:
    yolo = Partition(build("yolov2", layers=16))
    boards = cluster("pi4-1", 6)
    relayed, straight = (
        best_plan(yolo, replace(boards, radio=True, direct=direct)).best.prediction for direct in (False, True)
    )
    own_links = best_plan(yolo, replace(boards, direct=True)).best.prediction
    assert own_links.latency_s < straight.latency_s < relayed.latency_s
    assert straight.latency_s > straight.bound_s > own_links.bound_s
