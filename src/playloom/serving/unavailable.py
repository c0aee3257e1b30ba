"""What is raised for want of room, or at the end. Apart from the broker, so that who refuses need not load a model."""

from __future__ import annotations

from playloom.errors import PlayloomError, ResourceError


class BusyError(ResourceError):
    """Raised when there is no room for another session now; trying again later may help."""


class StoppedError(PlayloomError):
    """Raised when the broker takes no more work, or ended before some was done."""
