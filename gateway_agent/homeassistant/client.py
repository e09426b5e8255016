"""The line to Home Assistant's broker: a small paho client for raw payloads.

``schemas.wire.link`` speaks the cluster's table only, and this is another broker with other topics. The laws are the same: the
network thread never blocks and never dies, all subscriptions are made again on every connection, and what waits is
bounded: a picture is dropped while a few of them have not left, the rest when the queue is full.
"""

import contextlib
import queue
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gateway_agent.homeassistant.mirror import Said
from schemas.wire.link import Address, client_id, tls

KEEPALIVE_S = 20
MOST_QUEUED = 2000
MOST_PICTURES = 4  # that have not left
MOST_HEARD = 64
LONGEST = 256 * 1024  # bytes of a message that we listen to


@dataclass(frozen=True)
class Heard:
    """A message of Home Assistant or of our own past, unchecked."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True)
class Up:
    """The broker is there, and has all subscriptions."""


@dataclass(frozen=True)
class Down:
    """It is not; ``reason`` says why. The client tries again by itself."""

    reason: str


class Client:
    """``heard`` gets what arrives; ``will`` is said when this process is lost."""

    def __init__(self, url: str | Address, name: str, filters: Sequence[str], will: Said) -> None:
        self.address = url if isinstance(url, Address) else Address.parse(url)
        self.heard: queue.Queue[Heard | Up | Down] = queue.Queue(MOST_HEARD)
        self._pictures: list[Any] = []
        self._filters = [(one, 1) for one in filters]
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id(name), clean_session=True, protocol=paho.MQTTv311
        )
        if self.address.user is not None:
            client.username_pw_set(self.address.user, self.address.password)
        if self.address.tls:
            client.tls_set_context(tls(self.address.authority))
        client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.max_queued_messages_set(MOST_QUEUED)
        client.reconnect_delay_set(1, 30)
        client.connect_timeout = 3.0
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        client.on_connect_fail = lambda *_: self._put(Down("it does not answer"))

    def start(self) -> None:
        """Connect in the background, and again for ever."""
        self._client.connect_async(self.address.host, self.address.port, KEEPALIVE_S)
        self._client.loop_start()

    def say(self, said: Said) -> bool:
        """Publish without blocking; False if it was dropped."""
        if not self._client.is_connected():
            return False
        if said.qos == 0:
            self._pictures = [info for info in self._pictures if not info.is_published()]
            if len(self._pictures) >= MOST_PICTURES:
                return False
        info = self._client.publish(said.topic, said.payload, said.qos, said.retain)
        if said.qos == 0 and info.rc == paho.MQTT_ERR_SUCCESS:
            self._pictures.append(info)
        return bool(info.rc == paho.MQTT_ERR_SUCCESS)

    def close(self, last: Sequence[Said]) -> None:
        """Say ``last``, wait a moment for it to leave, and end the network thread."""
        if self._client.is_connected():
            with contextlib.suppress(ValueError, RuntimeError):
                for said in last:
                    self._client.publish(said.topic, said.payload, said.qos, said.retain).wait_for_publish(1.0)
        line = self._client.socket()
        self._client.disconnect()
        if line is not None and self._client.want_write():  # a broker that reads no more must not hold us here
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    # What follows runs on the network thread, where an exception would end it unheard.

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._put(Down(str(reason)))
        else:
            self._pictures = []  # paho forgets those of the connection before
            client.subscribe(self._filters)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        refused = any(reason.is_failure for reason in reasons)
        self._put(Down("it refused a subscription") if refused else Up())

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._put(Down(str(reason)))

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        if len(message.payload) <= LONGEST:
            with contextlib.suppress(UnicodeDecodeError):  # paho decodes the topic when it is asked for
                self._put(Heard(message.topic, message.payload, message.retain))

    def _put(self, event: Heard | Up | Down) -> None:
        """News of the connection always fit: the oldest event makes room."""
        while True:
            try:
                return self.heard.put_nowait(event)
            except queue.Full:
                if isinstance(event, Heard):
                    return
                with contextlib.suppress(queue.Empty):
                    self.heard.get_nowait()
