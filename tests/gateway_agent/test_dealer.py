from collections import Counter

from gateway_agent.dealer import Dealer
from gateway_agent.node import GatewayNode
from schemas.contract import messages as m
from schemas.contract import topics
from tests.nodes import heard, published, small_plan

NODES = {"edge1": "11111111", "edge2": "22222222", "edge3": "33333333"}


def test_tiles_are_dealt_equally_and_the_source_keeps_its_share() -> None:
    dealt = Dealer(7).deal(["edge2-22222222-0"], NODES)
    assert {f.victim for f in dealt} == {"edge2"}
    assert Counter(f.thief for f in dealt) == {"edge1": 2, "edge3": 2}
    assert len({f.request for f in dealt}) == 4


def test_frames_are_dealt_once_and_one_after_another() -> None:
    dealer = Dealer(3)
    frames = ["edge1-11111111-0", "edge2-22222222-0"]
    assert {f.victim for f in dealer.deal(frames, NODES)} == {"edge1"}
    assert dealer.deal(frames, NODES) == []
    assert {f.victim for f in dealer.deal(frames[1:], NODES)} == {"edge2"}
    assert dealer.deal([], NODES) == []


def test_a_source_that_is_gone_or_restarted_is_dealt_nothing() -> None:
    assert Dealer(3).deal(["edge9-11111111-0"], NODES) == []
    assert Dealer(3).deal(["edge1-99999999-0"], NODES) == []


def test_the_gateway_deals_a_frame_when_its_source_announces_it() -> None:
    plan = small_plan().model_copy(update={"schedule": "sharing"})
    node = GatewayNode("gateway", "aaaaaaaa", plan)

    def register(name: str, epoch: str, *frames: str) -> list[m.Steal]:
        told = m.Register(node=name, epoch=epoch, seq=1, runtime=plan.runtime, waiting=4, frames=frames)
        steals: list[m.Steal] = [said.message for said in published(node.hear(heard(topics.REGISTER, told), 0.0), topics.STEAL)]
        return steals

    assert register("edge2", "22222222") == []
    steals = register("edge1", "11111111", "edge1-11111111-0")
    assert [steal.thief for steal in steals] == ["edge2", "edge2"]  # four tiles for two
    assert register("edge1", "11111111", "edge1-11111111-0") == []
