"""Shares of the work for nodes of uneven speed, or with other things to do: a source takes and sends pictures."""

from models.planning.cluster import CORE_FLOPS_S, HOPS, Cluster, Workload

_LEAST = 0.2  # of an even share: less is not worth a message


def shares(cluster: Cluster, work: Workload, weight: float = 1.0) -> list[float] | None:
    """Each lane's share of the effort, so that all nodes are through at the same time; None: they are even anyhow.

    Lane i is node i's; the first is the source, which takes the picture and sends all other tiles. ``weight``: how much
    of what nodes do beside computing counts. For a plan with as many lanes as nodes.
    """
    if work.lanes != cluster.nodes or work.lanes < 2:
        return None
    lane_s = cluster.per_lane_s + cluster.per_tile_s * len(work.steps[0])
    sent_s = [_message_s(cluster, crop, True) for crop in work.crops]
    back_s = [0.0] * work.lanes
    for (_, lane), count in work.results.items():
        back_s[lane] += _message_s(cluster, count, False)
    beside = [weight * (lane_s + got + back) for got, back in zip(sent_s, back_s)]
    beside[0] = weight * (lane_s + cluster.per_frame_s + cluster.per_picture_s + sum(sent_s[1:]) + back_s[0])
    power = [speed / CORE_FLOPS_S for speed in cluster.speeds]
    beside = [busy * own / told for busy, own, told in zip(beside, power, cluster.edge_message_speeds)]  # as effort's seconds
    whole_s = sum(work.effort.values()) / CORE_FLOPS_S
    end_s = (whole_s + sum(beside)) / sum(power)
    found = [end_s * share - busy for share, busy in zip(power, beside)]
    return [max(own / whole_s, _LEAST / work.lanes) for own in found]


def _message_s(cluster: Cluster, count: int, are_pixels: bool) -> float:
    """What one end of a message costs."""
    straight = are_pixels and cluster.is_straight(count)
    packed = cluster.packed(count, are_pixels, hops=1 if straight else HOPS)
    pack_s = cluster.pack_byte_s * count if packed < count else 0.0
    return (cluster.straight_message_s if straight else cluster.per_message_s) + cluster.per_byte_s * count + pack_s
