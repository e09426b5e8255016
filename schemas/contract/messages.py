"""What the nodes say to each other. Control messages are JSON; a tensor message has a JSON header and then bytes.

Every message names its sender and the sender's epoch, a number drawn at process start: an older epoch is stale. Times
are durations in seconds, never deadlines, because the clocks of two machines differ.
"""

import re
import secrets
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from schemas.contract.plan import Count, Digest, Plan, Record
from schemas.contract.results import Result
from schemas.contract.text import OneLine

PROTOCOL: Final = 1
PEERS = 256  # that are told of at a time
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Epoch = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
FrameId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}-[0-9a-f]{8}-[0-9]{1,12}$")]
RequestId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
Key128 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # 32 bytes
SealedBox = Annotated[str, Field(max_length=63_000)]  # sealed bytes in base64
# An IP address, in brackets if it is of version 6, and a port: names would have nodes ask whatever name server they have.
Socket = Annotated[str, StringConstraints(pattern=r"^([0-9.]{7,15}|\[[0-9a-f:.]{2,45}\]):[0-9]{1,5}$")]
Picture = tuple[Annotated[int, Field(ge=0, le=65535)], Annotated[int, Field(ge=0, le=65535)]]  # height, width
Rate = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]  # of a tile or a frame
Total = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]  # seconds that add up as long as a process lives


def new_epoch() -> str:
    """A random 32-bit number in hexadecimal; also the form of request ids."""
    return secrets.token_hex(4)


def frame_id(source: str, epoch: str, number: int) -> str:
    """The name of a frame: unique over restarts of its source, and a topic level of letters that every broker carries.

    NATS refuses ``.`` in topics, RabbitMQ turns it into ``/``; of a name and two numbers ``-`` is the last two all the same.
    """
    return f"{source}-{epoch}-{number}"


def frame_source(frame: str) -> tuple[str, str, int]:
    """Source, its epoch and the frame's number (from 0)."""
    source, epoch, number = frame.rsplit("-", 2)
    return source, epoch, int(number)


def is_name(text: str) -> bool:
    """Whether ``text`` may name a node, a source or a cluster (Home Assistant refuses more)."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None


def as_name(text: str) -> str:
    """``text`` with everything else than a name may hold as ``-``."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)[:64] or "node"


class Message(Record):
    """Common to all: protocol version, sender and the sender's epoch."""

    v: Literal[1] = PROTOCOL
    node: Name
    epoch: Epoch


class Hello(Message):
    """First on a straight connection, from each side: who speaks to whom, in which epochs; what becomes of it says
    ``schemas.wire.direct``.

    ``public`` and ``proof`` in a sealed cluster: a key of this connection, and that the sender has the pair's.
    """

    to: Name
    to_epoch: Epoch
    public: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    proof: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""


class Peer(Record):
    """Another node that is here, and where it takes straight connections."""

    epoch: Epoch
    address: Socket


class Register(Message):
    """``dt/register``, edge -> gateway: this node is here, with ``waiting`` tiles that others may have.

    Sent every 2 s (the heartbeat) and when ``waiting`` changes. ``frames`` are the source's frames without an
    outcome yet. ``seq`` comes back in the gateway's echo. ``plan`` is None until the node has one. ``camera``: it has a
    source. ``machine``: which machine it is, whatever it is called. ``flops_s`` is the effort a second of its engine,
    ``bytes_s`` those of its link, and ``message_speed`` how fast it handles messages, the planner's reference core being 1,
    as measured; 0: not known. ``answers``: it wants the results of its frames. ``distrusts``: nodes whose bits of its own
    frames it has found to be wrong; they get no more of its tiles. ``address``: where it takes straight
    connections, if it does; ``roster``: of the last ``Echo`` with peers.
    """

    seq: Count
    runtime: Annotated[OneLine, Field(max_length=200)]
    plan: Digest | None = None
    waiting: Count = 0
    frames: Annotated[tuple[FrameId, ...], Field(max_length=64)] = ()
    camera: bool = False
    leaving: bool = False
    flops_s: Rate = 0.0
    bytes_s: Rate = 0.0
    message_speed: Rate = 0.0
    deadline_s: Seconds | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    machine: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,16}$")] = ""
    distrusts: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    answers: bool = False
    address: Socket | None = None
    roster: RequestId | None = None


class Echo(Message):
    """``dt/echo/<node>``, gateway -> edge: answers one ``Register``; proves that the subscription is alive.

    ``cameras`` and ``helpers`` count the living nodes with a source and without. A source that is the only one holds
    the requests of idle nodes for its next frame; where helpers are fewer than cameras it does not divide its frames.
    ``paused``: sources open no frame. ``pictures_s``: a source sends a picture so often at most; 0: none is wanted.
    ``peers``: all that take straight connections, if the node's ``roster`` is not this one.
    """

    seq: Count
    to_epoch: Epoch
    plan: Digest
    cameras: Count = 0
    helpers: Count = 0
    paused: bool = False
    pictures_s: Seconds = 0.0
    refused: Annotated[OneLine, Field(max_length=500)] = ""
    roster: RequestId | None = None
    peers: Annotated[dict[Name, Peer], Field(max_length=PEERS)] = {}


class VictimRequest(Message):
    """``dt/victim/req``, thief -> gateway: I can take one tile; ``ahead``: while I still compute another."""

    plan: Digest
    request: RequestId
    ahead: bool = False


class Steal(Message):
    """``dt/steal/<victim>``, gateway -> victim: lend a tile to ``thief`` under its request id.

    ``flops_s`` is the thief's effort a second: of tiles of uneven work the fastest gets the largest.
    """

    plan: Digest
    thief: Name
    thief_epoch: Epoch
    request: RequestId
    ahead: bool = False
    flops_s: Rate = 0.0


class TileHeader(Message):
    """``dt/tile/<thief>``, victim -> thief: a tile's input tensors and its lease; no frame and no tensors: "none".

    ``picture`` is the size of the source's image before it was fitted to the model; it comes back with the result.
    ``token``: who knows it may give parts of this frame, as ``OverlapHeader.proof`` shows.
    """

    plan: Digest
    to_epoch: Epoch
    request: RequestId
    frame: FrameId | None = None
    block: Count = 0
    tile: Count = 0
    lease_s: Seconds = 0.0
    picture: Picture = (0, 0)
    token: Key128 | None = None


class Return(Message):
    """``dt/return/<victim>``, thief -> victim: it will not compute these tiles, which were lent to it.

    It leaves, or its engine failed (``error``).
    """

    plan: Digest
    frame: FrameId
    tiles: Annotated[tuple[Count, ...], Field(max_length=4096)]
    error: Annotated[OneLine, Field(max_length=300)] = ""


class ResultHeader(Message):
    """``dt/result/<frame>``, worker -> gateway: the output tensors of one tile. The first one for a tile counts.

    ``compute_s`` is the time in the engine, ``stolen`` whether the worker is not the frame's source: then ``request`` is the
    one under which it was lent. Of its source alone: ``whole``, it has computed the frame undivided, these are the last
    cut's whole maps, and ``tile`` is 0; or ``error`` and no tensors, its engine failed, and the frame with it.
    """

    plan: Digest
    frame: FrameId
    block: Count
    tile: Count
    request: RequestId | None = None
    compute_s: Seconds = 0.0
    stolen: bool = False
    whole: bool = False
    picture: Picture = (0, 0)
    error: Annotated[OneLine, Field(max_length=300)] = ""


class OverlapHeader(Message):
    """``dt/overlap/<layer>/<tile>``, worker -> whoever computes ``tile`` of the next block: what it needs of ``maker``.

    ``layer`` is the index of the block that made it; the tensors are that block's cut, each the region where the output
    of tile ``maker`` meets the need of tile ``tile``, as ``models.tiling.tensor.exchange`` says. ``proof``: that the sender has
    got a tile of this frame, or is its source.
    """

    plan: Digest
    frame: FrameId
    layer: Count
    tile: Count
    maker: Count
    proof: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,32}$")] = ""


class OverlapRequest(Message):
    """``dt/overlap/req``, worker -> edges: this tile of the frame lacks parts of the blocks from ``layer`` on.

    Every node that has computed such parts publishes them again.
    """

    plan: Digest
    frame: FrameId
    layer: Count
    tile: Count


class Accepted(Message):
    """``dt/accepted/<node>``, gateway -> source and worker: these tiles of this frame are done.

    ``ended``: the whole frame has its outcome (result or failure); nothing of it is needed any more. The source hears whose
    result it was and its ``fingerprint``, as ``models.tiling.tensor`` has it, if it was not its own;
    it is that of the first of ``tiles``. ``result`` is the frame's, for a source that wants it (``Register.answers``), once
    it has ended with one.
    """

    frame: FrameId
    block: Count = 0
    tiles: Annotated[tuple[Count, ...], Field(max_length=4096)] = ()
    ended: bool = False
    worker: Name | None = None
    fingerprint: Digest | None = None
    result: Result | None = None


class Outcome(Message):
    """``dt/source/<source>/outcome``, gateway -> all: how a frame ended, exactly once.

    ``digests`` are those of the merged cut tensors and of the model's final outputs, by tensor name. ``computed`` counts
    the tiles of the frame by node, ``stolen`` those that were stolen. ``latency_s`` runs from the gateway's first
    word of the frame to its outcome. ``workers`` names the node of each tile in the plan's numbering, ``stolen_tiles`` those
    that were stolen. ``result`` is what the model says of the picture, in pixels of the source's image.
    """

    frame: FrameId
    status: Literal["ok", "failed"]
    reason: Annotated[OneLine, Field(max_length=500)] = ""
    latency_s: Total
    computed: dict[str, Count] = {}
    stolen: dict[str, Count] = {}
    workers: Annotated[tuple[Name, ...], Field(max_length=4096)] = ()
    stolen_tiles: Annotated[tuple[Count, ...], Field(max_length=4096)] = ()
    digests: dict[str, Digest] = {}
    picture: Picture = (0, 0)
    result: Result | None = None
    exactness: Annotated[OneLine, Field(max_length=200)] = "exact"


class PictureHeader(Message):
    """``dt/source/<source>/picture``, source -> gateway, where asked for: what the camera saw, for people to look at.

    One tensor, ``jpeg``: the file's bytes. ``picture`` is the size of the source's image, to which results refer; the JPEG
    may be smaller.
    """

    frame: FrameId
    picture: Picture


class OutputHeader(Message):
    """``dt/source/<source>/output``, gateway -> all, where asked for: the final output tensors of a frame, by name."""

    frame: FrameId


class PlanMessage(Message):
    """``dt/plan``, gateway -> all, retained: the plan, and the digests of the chunks in which the edges' model comes.

    ``name`` is the model's, for people and those who ask for it by name; nothing else rests on it.
    """

    plan: Plan
    chunks: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=65536)]
    model_bytes: Annotated[int, Field(ge=1, le=2**31)]
    name: Annotated[OneLine, Field(max_length=200)] = ""


class ChunkRequest(Message):
    """``dt/model/<node>/ask``, edge -> gateway: send me these chunks of the model ``digest``."""

    digest: Digest
    chunks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=64)]


class ChunkHeader(Message):
    """``dt/model/<node>/chunk``, gateway -> the edge that asked: chunk ``n`` of the edges' model, one uint8 tensor."""

    digest: Digest
    n: Count


class Vitals(Record):
    """The machine of a node: ``cpu`` is the share of all its cores in use, ``memory_bytes`` what this process occupies.

    What a machine does not tell is None. ``throttled``: it slows down for heat or lack of power. ``clock_s``: its time when
    this was said, in seconds since 1970, to see whether clocks agree; nothing is decided by it.
    """

    cpu: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature_c: Annotated[float, Field(ge=-100, le=300)] | None = None
    memory_bytes: Count | None = None
    throttled: bool | None = None
    uptime_s: Total = 0.0
    clock_s: Rate | None = None


class StatusRequest(Message):
    """``dt/status/req``, anybody -> all nodes: tell your status now, for somebody has just begun to look."""


class Status(Message):
    """``dt/node/<node>/status``, node -> all: counters since its start, for people and dashboards.

    Sent every 2 s when counters have changed, every 10 s otherwise. ``tile_s``: time of a tile in the engine, smoothed.
    ``fetched``: how much of its model is here, from 0 to 1, while it is fetched.
    ``straight``: nodes with which it has a straight connection now; ``straight_out`` and ``straight_in`` are the bytes on such
    connections, which the other counters do not hold.
    ``missed`` frames came from the camera while there was no room for them, or were not answered in time, ``still`` ones
    showed no motion; ``source`` is its address without secrets. ``dropped`` are messages by what was wrong with them.
    """

    version: Annotated[OneLine, Field(max_length=40)] = ""
    source: Annotated[OneLine, Field(max_length=300)] = ""
    waiting: Count = 0
    tile_s: Seconds | None = None
    fetched: Annotated[float, Field(ge=0, le=1)] | None = None
    missed: Count = 0
    still: Count = 0
    vitals: Vitals = Vitals()

    computed: Count = 0
    stolen: Count = 0
    lent: Count = 0
    compute_s: Total = 0.0
    frames: Count = 0
    bytes_out: Count = 0
    bytes_in: Count = 0
    messages_out: Count = 0
    messages_in: Count = 0
    straight: Annotated[tuple[Name, ...], Field(max_length=PEERS)] = ()
    straight_out: Count = 0
    straight_in: Count = 0
    dropped: dict[str, Count] = {}
    finished: bool = False


class BridgeState(Message):
    """``dt/bridge/state``, gateway -> all, retained: whether the gateway is there; offline also by its last will."""

    state: Literal["online", "offline"]


class BridgeInfo(Message):
    """``dt/bridge/info``, gateway -> all, retained: version and configuration, without secrets; what may be requested."""

    version: str
    broker: str
    model: str
    models: tuple[str, ...]
    plan: Digest
    grid: str
    detection: bool
    threshold: Annotated[float, Field(ge=0, le=1)] | None
    deadline_s: Total
    labels: tuple[str, ...]
    verbs: tuple[str, ...]
    exactness: str = "exact"


class BridgeNode(Record):
    """One node of ``BridgeNodes``. ``source`` is its address without secrets."""

    name: Name
    online: bool
    camera: bool
    version: str
    runtime: str
    source: str


class BridgeNodes(Message):
    """``dt/bridge/nodes``, gateway -> all, retained: all that were here and were not removed."""

    nodes: Annotated[tuple[BridgeNode, ...], Field(max_length=100)]


class BridgeHealth(Message):
    """``dt/bridge/health``, gateway -> all, retained, every 10 s: ``degraded`` names the sources whose last frame failed,
    and why."""

    frames: Count
    failed: Count
    frames_per_second: Rate
    latency_s: Total | None
    nodes_online: Count
    degraded: dict[str, str]


class BridgeRequest(Message):
    """``dt/bridge/request/<verb>``, anybody -> gateway: ``{"value": 0.4, "transaction": "7"}`` is enough.

    ``verb`` and ``value`` as in ``gateway_agent.controls``.
    """

    node: Name = "somebody"
    epoch: Epoch = "00000000"
    value: bool | float | Annotated[str, Field(max_length=200)] | None = None
    transaction: Annotated[str, Field(max_length=100)] | None = None


class BridgeResponse(Message):
    """``dt/bridge/response/<verb>``, gateway -> all: what became of a request with this ``transaction``."""

    status: Literal["ok", "error"]
    error: str = ""
    value: bool | float | str | None = None
    transaction: str | None = None


class Keys(Message):
    """``dt/keys/<node>``, gateway -> edge, in a sealed cluster: who else is in it, and the keys to speak to them.

    ``box`` holds a ``schemas.security.keyring.Ring``, encrypted for this node. Of two, the higher ``edition`` counts.
    """

    to_epoch: Epoch
    edition: Count
    box: SealedBox


class JoinRequest(Message):
    """``dt/join/<permission>/ask``, newcomer -> gateway: I know the secret of this permission, and want to be ``node``.

    ``public`` is an X25519 key of this attempt, ``proof`` a keyed hash of all of this.
    """

    permission: RequestId
    public: Hex32
    proof: Hex32


class JoinAnswer(Message):
    """``dt/join/<permission>/answer``, gateway -> newcomer with this key: its secret in a ``box``, or why not."""

    permission: RequestId
    to: Hex32
    public: Hex32
    box: SealedBox = ""
    refused: Annotated[str, Field(max_length=300)] = ""
    proof: Hex32
