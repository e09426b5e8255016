"""The gateway's address, for an edge that was given none: whoever answers by mDNS. Nothing else happens until then.

A person is told after five seconds that nobody answers; a service, which may have started before its gateway, looks on.
"""

import logging
import threading
import time

from schemas.contract.config import EdgeOptions
from schemas.contract.errors import UnreachableError
from schemas.host.discovery import SEARCH_S, Found, reachable, search
from schemas.host.service import Service

TELL_S = 60.0
_log = logging.getLogger(__name__)


def find(options: EdgeOptions, service: Service, stopped: threading.Event) -> EdgeOptions | None:
    """``options`` with the address and the root of the gateway that was found; None if ``stopped`` before.

    Raises:
        UnreachableError: none answers, and this is no service.
        PlanError: several answer.
        DtError: this machine cannot ask.
    """
    service.ready()
    service.status("looking for a gateway by mDNS")
    told_at = float("-inf")

    def go_on() -> bool:
        service.feed(time.monotonic())
        return not stopped.is_set()

    while go_on():
        found = search(options.root, SEARCH_S, go_on)
        if found is not None:
            return _joined(options, found)
        if stopped.is_set():
            break
        which = f"of cluster {options.root} " if options.root else ""
        text = f"no gateway {which}answers by mDNS: is 'dt gateway --listen 0.0.0.0:1883' running in this network? "
        if not service.present:
            raise UnreachableError(f"{text}or name its address: --gateway HOST[:PORT]")
        if time.monotonic() >= told_at + TELL_S:
            told_at = time.monotonic()
            _log.warning("%slooking on", text)
    return None


def _joined(options: EdgeOptions, found: Found) -> EdgeOptions:
    url = reachable(found)
    _log.info("found the gateway of cluster %s at %s", found.root, url)
    return options.model_copy(update={"gateway": url, "root": found.root})
