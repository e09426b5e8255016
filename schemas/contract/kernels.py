"""What a node's kernels compute, in one line: ``ai-edge-litert 2.3.0 aarch64 float32=bc1201e0 int8=... uint8=...``.

Runtime and machine, then a digest of the bits of each arithmetic. A plan's line has the arithmetics of its model alone, so
that processors which differ in others may share it: a Cortex-A53 (Pi 3, Zero 2 W) rounds uint8 as no A72 or A76 (Pi 4, 5).
"""

_SAME = "install the same on machines of one kind"
_ONE_KIND = "take processors of one kind"
_REMEDIES = {"uint8": f"use an int8 or float32 model, in which a Pi 3 or Zero 2 W agrees with a Pi 4 or 5, or {_ONE_KIND}"}


def without_digests(kernels: str) -> str:
    """Runtime and machine alone."""
    return _parsed(kernels)[0]


def difference(node: str, cluster: str) -> tuple[str, str]:
    """Why ``node`` computes other bits than a plan's line asks for, and the remedy; ("", "") if it computes the same."""
    (mine, digests), (wanted, asked) = _parsed(node), _parsed(cluster)
    if mine != wanted:
        return f"it runs {mine}, this cluster {wanted}: their bits differ", _SAME
    unequal = [arithmetic for arithmetic in asked if digests.get(arithmetic) != asked[arithmetic]]
    if not unequal:
        return "", ""
    told = ", ".join(f"{a} {digests.get(a, 'unknown')}, not {asked[a]}" for a in unequal)
    reason = f"its processor computes other {' and '.join(unequal)} bits than this cluster ({told})"
    return reason, _REMEDIES.get("+".join(unequal), _ONE_KIND)


def _parsed(kernels: str) -> tuple[str, dict[str, str]]:
    words = kernels.split()
    digests = dict(word.split("=", 1) for word in words if "=" in word)
    return " ".join(word for word in words if "=" not in word), digests
