"""Names of sessions and jobs: secret, and beginning with the server that has them where there are several.

    mint("a7")        # 'a7.6f0c...': a load balancer that reads `replica_in` sends it back to a7
    mint(None)        # '6f0c...'

Knows nothing of what is named.
"""

from __future__ import annotations

import re
import secrets

TAG = r"[A-Za-z0-9_-]{1,64}"
"""What a server may be called."""
LONGEST = 128
"""Characters of a name."""
REPLICA_HEADER = "x-playloom-replica"
"""The header of an answer in which a server among several says which one it is."""
_TAGGED = re.compile(rf"({TAG})\.")


def mint(replica: str | None) -> str:
    """A new name that nobody can guess, led by the server's own where it has one."""
    secret = secrets.token_hex(24)
    return secret if replica is None else f"{replica}.{secret}"


def replica_in(name: str) -> str | None:
    """The server that a session's or job's name leads to; None: the name does not say."""
    found = _TAGGED.match(name)
    return found and found[1]
