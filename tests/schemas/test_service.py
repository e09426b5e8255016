"""What systemd hears of an agent: a real datagram socket stands in for it."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.host.service import Service


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Its address, and what it has heard since it was asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.setblocking(False)

        def heard() -> list[str]:
            words = []
            while True:
                try:
                    words.append(line.recv(4096).decode())
                except BlockingIOError:
                    return words

        yield str(tmp_path / "notify"), heard


def test_the_manager_hears_each_word(manager: tuple[str, Callable[[], list[str]]]) -> None:
    address, heard = manager
    service = Service.found({"NOTIFY_SOCKET": address})
    service.ready()
    service.status("two\nlines")
    service.stopping()
    assert heard() == ["READY=1", "STATUS=two lines", "STOPPING=1"] and service.present


def test_the_watchdog_is_fed_four_times_in_its_period(manager: tuple[str, Callable[[], list[str]]]) -> None:
    address, heard = manager
    service = Service.found({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())})
    for tenth in range(80):
        service.feed(100.0 + tenth / 10)
    assert heard() == ["WATCHDOG=1"] * 4


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}])
def test_a_watchdog_that_is_not_ours_is_not_fed(
    manager: tuple[str, Callable[[], list[str]]], more: dict[str, str]
) -> None:
    address, heard = manager
    service = Service.found({"NOTIFY_SOCKET": address, **more})
    service.feed(1.0)
    assert heard() == []


def test_an_abstract_socket_is_reached_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("")  # the kernel chooses an abstract name
        Service.found({"NOTIFY_SOCKET": "@" + line.getsockname()[1:].decode()}).ready()
        line.setblocking(False)
        assert line.recv(100) == b"READY=1"


def test_no_child_inherits_the_line(manager: tuple[str, Callable[[], list[str]]]) -> None:
    environ = {"NOTIFY_SOCKET": manager[0], "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/h"}
    Service.found(environ)
    assert environ == {"HOME": "/h"}


def test_without_a_manager_or_with_a_deaf_one_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "absent")}):
        service = Service.found({**environ, "WATCHDOG_USEC": "1000"})
        service.ready()
        service.feed(1.0)
        assert service.present == bool(environ)


def test_a_process_without_a_file_left_to_open_goes_on(manager: tuple[str, Callable[[], list[str]]]) -> None:
    service, before = Service.found({"NOTIFY_SOCKET": manager[0]}), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        service.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    service.stopping()
    assert manager[1]() == ["STOPPING=1"]
