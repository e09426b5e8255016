"""Addresses, and whatever else may hold a secret, as they may be shown.

The law: what stands before the last ``@`` of an address, but for a user's name with a password behind it, what a parameter
with a telling name is set to, and the line that lets a node in, leave this function as ``***``; of what is malformed rather
too much is hidden than too little.
"""

import re

_PATH = ("/", "./", "../", "~")
_LINE = re.compile(r"\b(dt(?:join|read)1-).*", re.DOTALL)
_SECRET = re.compile(r"([^=&;#?/\s]*(?:pas|pwd|pw|token|key|secret|auth|sig|cred|session)[^=&;#?/\s]*)=[^&]*", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` without its secrets; what has none is unchanged."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "", text  # a mistyped address may have no scheme
    before, at, after = rest.rpartition("@")
    if at and (mark or not rest.startswith(_PATH)):
        user, _, password = before.partition(":")
        rest = (f"{user}:" if password and not re.search(r"[/?#]", user) else "") + f"***@{after}"
    return _SECRET.sub(r"\1=***", _LINE.sub(r"\1***", scheme + mark + rest))
