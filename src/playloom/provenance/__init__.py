"""Where a generated picture comes from: the manifest in its metadata, and the mark on its face."""

from playloom.provenance.manifest import Manifest, created_at, frames_hash
from playloom.provenance.mark import stamp

__all__ = ["Manifest", "created_at", "frames_hash", "stamp"]
