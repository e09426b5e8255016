"""What strips weigh and save, from plan and model alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from models.graph import parse
from models.partition import Partition
from models.planner import make_plan
from models.reuse import is_first
from models.runner import TileRunner
from models.tensor import part_shape
from models.trade import NO_TRADE, Trade, trade
from schemas.errors import DecodeError

PLAN, _, MODEL = make_plan(Partition(build("mini", 96)), "0" * 32, (3, 3), "max3")
TRADE = TileRunner(PLAN, parse(MODEL)).trade
LARGE = replace(TRADE, message_effort=0)  # as if tiles were so large that messages do not matter
RATES = st.floats(1e3, 1e12)


def strips(trade: Trade, taker: int, maker: int) -> dict[str, np.ndarray]:
    return {n: np.zeros(part_shape(*s), s.spec.dtype) for n, s in trade.strips[taker][maker].items()}


def test_the_tiles_between_those_of_the_first_level_take_from_all_their_neighbours() -> None:
    assert {taker: set(TRADE.makers(taker)) for taker in TRADE.strips} == {
        1: {0, 2, 4}, 3: {0, 4, 6}, 5: {2, 4, 8}, 7: {4, 6, 8},
    }  # fmt: skip
    assert TRADE.takers(4) == [1, 3, 5, 7] and TRADE.takers(1) == []
    assert all(not is_first(*divmod(taker, 3)) for taker in TRADE.strips)


def test_what_a_taker_saves_is_a_part_of_its_effort() -> None:
    for taker, saved in TRADE.saved.items():
        assert 0 < saved < PLAN.blocks[0].tiles[taker].effort


def test_bytes_are_those_of_the_strips_that_would_be_sent() -> None:
    for taker, makers in TRADE.strips.items():
        sent = [array.nbytes for maker in makers for array in strips(TRADE, taker, maker).values()]
        assert TRADE.bytes(taker) == sum(sent)


@given(RATES, RATES, st.integers(0, TRADE.saved[1]))
def test_strips_pay_where_both_hops_and_messages_cost_less_than_what_they_save(
    flops_s: float, bytes_s: float, message_effort: int
) -> None:
    trade = replace(TRADE, message_effort=message_effort)
    gain_s = (trade.saved[1] - 3 * message_effort) / flops_s
    assert trade.pays(1, flops_s, bytes_s) == (2 * trade.bytes(1) / bytes_s < gain_s)


def test_at_the_rate_at_which_they_cost_what_they_save_strips_do_not_pay() -> None:
    bytes_s = 2 * LARGE.bytes(1) * 1e9 / LARGE.saved[1]
    assert not LARGE.pays(1, 1e9, 0.99 * bytes_s) and LARGE.pays(1, 1e9, 1.01 * bytes_s)


def test_a_small_models_strips_save_less_than_their_messages_cost() -> None:
    assert not TRADE.pays(1, 1.0, 1e12)


def test_takers_whose_strips_no_message_holds_are_left_out() -> None:
    block = PLAN.blocks[0]
    runner = TileRunner(PLAN, parse(MODEL))
    few = tuple(spec.model_copy(update={"shape": (1, 4, 4, 1)}) for spec in block.cut)
    small = block.model_copy(update={"inputs": few, "cut": few})
    assert trade(runner._partition, block, runner._reuse(0)) == TRADE
    assert trade(runner._partition, small, runner._reuse(0)) == NO_TRADE


def test_at_rates_that_are_not_known_nothing_pays() -> None:
    assert LARGE.pays(1, 1.0, 1e12)
    assert not LARGE.pays(1, 0.0, 1e12) and not LARGE.pays(1, 1.0, 0.0) and not LARGE.pays(0, 1.0, 1e12)


def test_strips_that_the_plan_does_not_name_are_refused() -> None:
    good = strips(TRADE, 1, 0)
    TRADE.check(1, 0, good)
    name, array = next(iter(good.items()))
    wrong = [{}, {**good, name: array[:, :-1]}, {**good, name: array.astype(np.float16)}, {**good, "more": array}]
    for tensors in wrong:
        with pytest.raises(DecodeError, match="strips of tile 0 for tile 1 are"):
            TRADE.check(1, 0, tensors)
    for taker, maker in ((0, 1), (1, 8), (1, 99), (99, 0)):
        with pytest.raises(DecodeError, match="gives no strips"):
            TRADE.check(taker, maker, good)


def test_a_plan_of_several_blocks_or_without_reuse_trades_nothing() -> None:
    partition = Partition(build("mini", 96))
    several, _, model = make_plan(partition, "0" * 32, blocks=[("max1", (3, 3)), ("max3", (3, 3))])
    assert TileRunner(several, parse(model)).trade == NO_TRADE
    plain, _, model = make_plan(partition, "0" * 32, (3, 3), "max3", reuse=False)
    assert TileRunner(plain, parse(model)).trade == NO_TRADE
