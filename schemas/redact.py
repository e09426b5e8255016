"""URIs as they may be shown: without passwords.

The law: what stands between the user's name and the host, and what a parameter with a telling name is set to, leaves
this function as ``***``; of a malformed URI rather too much is hidden than too little.
"""

import re

_USER = re.compile(r"(://[^:@/?#]*):.*@", re.DOTALL)
_SECRET = re.compile(
    r"([?&;#][^=&;#?]*(?:pass|pwd|pw|token|key|secret|auth|sig|cred|session)[^=&;#?]*)=[^&;#]*", re.IGNORECASE
)


def redact(uri: str) -> str:
    """``uri`` with its password and its secret parameters as ``***``; anything else is unchanged."""
    return _SECRET.sub(r"\1=***", _USER.sub(r"\1:***@", uri))
