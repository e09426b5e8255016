"""Addresses, and whatever else may hold a secret, as they may be shown.

The law: what stands before the last ``@`` of an address, but for a user's name with a password behind it, what a parameter
with a telling name is set to, and the line that lets a node in, leave this function as ``***``; of what is malformed rather
too much is hidden than too little.
"""

import re

_SCHEME = re.compile(r"(?:[^:@/?#]*=)?[a-z][a-z0-9+.-]*://", re.IGNORECASE)  # behind an option's name, too
_PATH = ("/", "./", "../", "~")
_LINE = re.compile(r"\b(dt(?:join|read)1-).*", re.DOTALL)
_SECRET = re.compile(r"([^=&;#?/\s]*(?:pas|pwd|pw|token|key|secret|auth|sig|cred|session)[^=&;#?/\s]*)=[^&]*", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` without its secrets; what has none is unchanged."""
    scheme = _SCHEME.match(text)  # a mistyped address may have none, and a password may hold ://
    head, rest = (scheme[0], text[scheme.end() :]) if scheme else ("", text)
    before, at, after = rest.rpartition("@")
    if at and (head or not rest.startswith(_PATH)):
        user, _, password = before.partition(":")
        rest = (f"{user}:" if password and not re.search(r"[/?#]", user) else "") + f"***@{after}"
    return _SECRET.sub(r"\1=***", _LINE.sub(r"\1***", head + rest))
