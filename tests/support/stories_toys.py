"""Small stories on disk: numbered nodes with frames that their numbers give."""

import numpy as np

from playloom.actions.codec import REST_VALUES
from playloom.server.stories.schemas import Header, Node
from playloom.server.stories.store import Frame

REST = tuple(REST_VALUES.tolist())
SIZE = (24, 40)
CREATED = "2026-01-01T00:00:00+00:00"
ONE = "1" * 32


def node(number, parent, **changes):
    action = None if parent is None else REST
    return Node(**{"id": number, "parent": parent, "origin": "given", "action": action, **changes})


def frame(seed, manifest=None):
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Frame(frame_HWC=pixels, codes_N=np.arange(15) + seed, weights="ab12", manifest=manifest)


def begun(store, name=ONE, frames=3):
    changes = [Header(name=name, created=CREATED, size=SIZE)]
    changes += [node(i, i - 1 if i else None) for i in range(frames)]
    return store.create(name, changes, [frame(i) for i in range(frames)])
