"""What an agent tells systemd when it runs as a service: that it is ready, that it lives, that it ends (sd_notify(3)).

One law: the watchdog is fed by whoever makes progress, in the loop itself, so that a loop that hangs is restarted. Without
$NOTIFY_SOCKET nothing is said. The variables are taken out of the environment: no child may speak in our name.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping


class Service:
    """The line to the service manager, if there is one."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every_s = watchdog_s / 4
        self._fed_at = float("-inf")

    @classmethod
    def found(cls, environ: MutableMapping[str, str] = os.environ) -> "Service":
        """As the environment says; the variables are gone from it afterwards."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if ours else 0.0)

    @property
    def present(self) -> bool:
        """Whether a service manager started this process and listens."""
        return bool(self._address)

    def ready(self) -> None:
        """The service is up."""
        self._say("READY=1")

    def status(self, text: str) -> None:
        """One line for people: what ``systemctl status`` shows."""
        self._say("STATUS=" + text.replace("\n", " "))

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def feed(self, now: float) -> None:
        """The loop has come round; said four times in each period of the watchdog."""
        if self._every_s and now >= self._fed_at + self._every_s:
            self._fed_at = now
            self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # a manager that does not listen, or no file left to open, is no reason to end
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line,
        ):
            line.sendto(text.encode(errors="replace"), self._address)
