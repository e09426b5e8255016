"""Gateways are heard by mDNS, on loopback here; and which of them an edge joins."""

import os
import socket
import sys
import time
from collections.abc import Callable

import pytest

from schemas.contract.errors import PlanError
from schemas.host.discovery import Found, Search, addresses, announced, choose, reachable

pytest.importorskip("zeroconf")
LOOPBACK = ["127.0.0.1"]
FARM_HERE, SHOP_HERE = (f"test-{name}-{os.getpid()}" for name in ("farm", "shop"))


def mine(heard: Search) -> list[Found]:
    """Other gateways of this machine may answer, too."""
    return [found for found in heard.found if found.root in (FARM_HERE, SHOP_HERE)]


def until(true: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_a_gateway_is_heard_with_its_root_port_and_tls_and_gone_when_it_ends() -> None:
    with Search(LOOPBACK) as heard:
        with announced(FARM_HERE, "127.0.0.1", 1999, True, LOOPBACK):
            assert until(lambda: bool(mine(heard)))
            (found,) = mine(heard)
            assert (found.root, found.port, found.tls) == (FARM_HERE, 1999, True)
            assert "mqtts://127.0.0.1:1999" in found.urls
        assert until(lambda: not mine(heard))


def test_two_clusters_of_one_host_are_heard_apart() -> None:
    roots = ((FARM_HERE, 1999), (SHOP_HERE, 2000))
    farm, shop = (announced(root, "127.0.0.1", port, False, LOOPBACK) for root, port in roots)
    with farm, shop, Search(LOOPBACK) as heard:
        assert until(lambda: len(mine(heard)) == 2)
        assert {(f.root, f.port) for f in mine(heard)} == set(roots)


FARM, SHOP = Found("farm", ("10.0.0.1", "fe80::1"), 1883), Found("shop", ("10.0.0.2",), 1884, True)
OTHER_FARM = Found("farm", ("10.0.0.3",), 1883)


def test_the_only_gateway_or_that_of_the_root_is_chosen() -> None:
    assert choose([], None) is None and choose([SHOP], "farm") is None
    assert choose([FARM], None) == FARM and choose([FARM, SHOP], "shop") == SHOP
    assert FARM.urls == ("mqtt://10.0.0.1:1883", "mqtt://[fe80::1]:1883")


def test_several_gateways_are_listed_with_what_tells_them_apart() -> None:
    with pytest.raises(PlanError, match=r"farm at mqtt://10.0.0.1:1883, shop at mqtts://10.0.0.2:1884: choose one with --root"):
        choose([SHOP, FARM], None)
    with pytest.raises(PlanError, match=r"10.0.0.1:1883, farm at mqtt://10.0.0.3:1883: name its address or"):
        choose([FARM, OTHER_FARM], "farm")


def test_the_address_that_takes_a_connection_is_dialled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(Found("farm", ("127.0.0.2", "127.0.0.1"), port), 0.5).endswith(f"127.0.0.1:{port}")
    assert reachable(Found("farm", ("127.0.0.2", "127.0.0.1"), port), 0.5) == f"mqtt://127.0.0.2:{port}"


def test_no_loopback_address_is_told_to_others() -> None:
    assert addresses("10.1.2.3") == ["10.1.2.3"]
    assert not any(found.startswith("127.") for found in addresses("0.0.0.0"))


def test_without_zeroconf_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(PlanError, match=r"pip install 'deepthings-mqtt\[mdns\]'.*, or name the address"):
        Search()
