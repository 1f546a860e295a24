"""What a server is told when it is started. No FastAPI, no torch."""

import hashlib
import hmac
from dataclasses import dataclass

from betoken.errors import ParameterError

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and secrets of a server.

    name:        what clients call the model; a path's last slash is no part of it
    keys:        one of them has to come with every request under /v1; none: everybody may
    max_queue:   requests that wait, at most; more get a 503
    max_body:    bytes of a request
    max_n:       samples of a request
    max_stops:   stop strings of a request
    max_prompts: prompts of a request to /v1/completions
    share_index: one memory for all keys; else each has its own, for how soon an answer comes can tell what others asked
    body_seconds, write_seconds: how long a client may take to send its request, or to take a chunk
    patience:    an answer's headers wait so long for its first token, so that what goes wrong before has a status of its own
    page:        whether there is a page at /
    allowed_origins: pages of these origins may ask from a browser ("*": of any)

    Raises ParameterError.
    """

    name: str = "betoken"
    keys: tuple[str, ...] = ()
    max_queue: int = 256
    max_body: int = 4 * MEGABYTE
    max_n: int = 16
    max_stops: int = 16
    max_prompts: int = 64
    share_index: bool = False
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    patience: float = 5.0
    page: bool = True
    allowed_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.rstrip("/") or self.name)
        for name in ("max_queue", "max_body", "max_n", "max_stops", "max_prompts"):
            if getattr(self, name) < 1:
                raise ParameterError(name.replace("_", "-"), getattr(self, name), "a whole number of at least 1")
        if any(not key.strip() for key in self.keys):
            raise ParameterError("api-key", "", "a secret that is not empty")

    def owner(self, authorization: str | None) -> str | None:
        """Whose request it is, a short name that tells nothing of the key; None: nobody's we know. Takes as long for every wrong key."""
        if not self.keys:
            return "anyone"
        kind, _, given = (authorization or "").partition(" ")
        # Headers are bytes, shown as if they were Latin-1.
        digest = _digest(given.strip().encode("latin-1", "replace") if kind.lower() == "bearer" else b"")
        same = [hmac.compare_digest(digest, _digest(key.encode("utf-8", "surrogateescape"))) for key in self.keys]
        return next((f"key-{place}" for place, match in enumerate(same) if match), None)

    def namespace(self, owner: str, salt: str = "") -> str:
        """Where what is remembered of a request belongs."""
        return f"{'' if self.share_index else owner}\n{salt}" if salt or not self.share_index else ""


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
