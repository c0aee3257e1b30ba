"""Exports: one path of a story as a file, a whole story as a zip, and overlays.

Generated frames leave watermarked and with their manifest; the arrays in `.npz` are unmarked, so that a dream can
continue from them (`playloom dream --prompt path.npz`).

==========  ============================================================================================
`.mp4`      the path as a video in real time, frames twice as large
`.gif`      the same, looping
`.csv`      the actions after the start frames, one row each; input for `--actions`
`.npz`      the arrays of the path, with its codes: input for `--prompt`
`.zip`      the folder that `playloom dream` writes
story       `story.json`, every image as PNG, and `codes.npz`: ids, parents, actions and codes of all frames
==========  ============================================================================================
"""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError, PictureError
from playloom.media.action_table import write_actions
from playloom.media.clips import write_dream_clip, write_npz
from playloom.media.images import enlarge
from playloom.media.output_folder import GeneratedClip, OutputStep
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, frames_hash, stamp
from playloom.server.stories.store import Frame, StoryDir
from playloom.server.stories.tree import Node

PathKind = Literal["mp4", "gif", "csv", "npz", "zip"]
"""Export formats of a path."""
_ENLARGED = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class PathClip:
    """The frames of a path in order, read from disk."""

    nodes: tuple[Node, ...]
    """Nodes from the root on."""
    frames: tuple[Frame, ...]
    """Frame of each node."""

    @property
    def seen(self) -> int:
        """Number of start frames: those before the first frame generated here; at least one."""
        for index, (node, frame) in enumerate(zip(self.nodes, self.frames, strict=True)):
            if frame.dreamed and (node.branch is not None or node.edit_of is not None):
                return max(1, index)
        return len(self.nodes)

    @property
    def manifest(self) -> Manifest | None:
        """Manifest of the last generated frame, with a note about branches and edits; None: all real."""
        made = [frame.manifest for frame in self.frames if frame.manifest is not None]
        if not made:
            return None
        parts = {(manifest.weights, manifest.seed, manifest.mode, manifest.parent) for manifest in made}
        edited = any(node.origin == "edited" for node in self.nodes)
        alone = "generated" if len(parts) == 1 else "generated, a path of several branches"
        return replace(
            made[-1],
            mode="full" if any(manifest.mode == "full" for manifest in made) else made[-1].mode,
            parent=frames_hash(self.frames_THWC(slice(self.seen))),
            step=None,
            note=f"{alone}, with frames edited by hand" if edited else alone,
        )

    @property
    def codes_TN(self) -> NDArray[np.int64] | None:
        """Codes of all frames, [T, N]; None unless all belong to the weights that `manifest` names."""
        made = self.manifest
        if {frame.weights for frame in self.frames} != ({made.weights} if made else set()):
            return None
        return np.stack([frame.codes_N for frame in self.frames])

    def frames_THWC(self, part: slice) -> NDArray[np.uint8]:
        """Return the pixels of some frames, unmarked."""
        frames = self.frames[part]
        return np.stack([frame.frame_HWC for frame in frames]) if frames else np.empty((0, 1, 1, 3), np.uint8)

    def actions_TA(self, part: slice) -> NDArray[np.uint8]:
        """Return the actions that led to some frames; the first frame has none."""
        actions = [node.action for node in self.nodes[part] if node.action is not None]
        return np.array(actions, np.uint8).reshape(-1, len(REST_VALUES))

    def steps(self) -> list[OutputStep]:
        """Return the steps after the start frames.

        Raises:
            BadInputError: when nothing did.
        """
        seen = self.seen
        if seen == len(self.nodes):
            raise BadInputError(
                f"nothing has been dreamed on the way to frame {self.nodes[-1].id}; dream on from it first"
            )
        after = zip(self.nodes[seen:], self.frames[seen:], strict=True)
        actions = self.actions_TA(slice(seen, None))
        return [
            OutputStep(frame.frame_HWC, action_A, node.action_source == "player")
            for (node, frame), action_A in zip(after, actions, strict=True)
        ]


def load_path(directory: StoryDir, nodes: Sequence[Node]) -> PathClip:
    """Read the frames of a path.

    Raises:
        RecordingError: when one of them cannot be read.
    """
    return PathClip(nodes=tuple(nodes), frames=tuple(directory.read_frame(node.id) for node in nodes))


def export_path(clip: PathClip, kind: PathKind) -> bytes:
    """Write a path as a file; see the table above.

    Raises:
        BadInputError: when nothing has been dreamed on it, and the file is one of inputs or of a dream.
    """
    with tempfile.TemporaryDirectory(prefix="playloom-") as folder:
        path = Path(folder) / f"path.{kind}"
        if kind == "mp4":
            write_mp4(path, _animation(clip, smooth=True), manifest=clip.manifest)
        elif kind == "gif":
            write_gif(path, _animation(clip, smooth=False), manifest=clip.manifest)
        elif kind == "csv":
            write_actions(path, np.stack([step.action_A for step in clip.steps()]))
        elif kind == "npz":
            _write_clip(path, clip)
        else:
            _write_folder(path, clip)
        return path.read_bytes()


def write_story(file: IO[bytes], directory: StoryDir, nodes: Sequence[Node], about: dict[str, Any]) -> None:
    """Write a whole story as a zip.

    Args:
        file: where.
        directory: its pictures.
        nodes: its frames.
        about: goes into `story.json`.

    Raises:
        RecordingError: when a frame cannot be read.
    """
    codes, weights = [], []
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("story.json", json.dumps(about, indent=1), zipfile.ZIP_DEFLATED)
        for node in nodes:  # one at a time: a story may be larger than the memory
            frame = directory.read_frame(node.id)
            archive.writestr(f"pictures/{node.id:04}.png", frame.png())
            codes.append(frame.codes_N.astype(np.int32))
            weights.append(frame.weights)
        with tempfile.TemporaryDirectory(prefix="playloom-") as folder:
            path = Path(folder) / "codes.npz"
            write_npz(path, _arrays(nodes, codes, weights))
            archive.write(path, path.name)


def _arrays(nodes: Sequence[Node], codes: Sequence[NDArray[np.int32]], weights: Sequence[str]) -> dict[str, Any]:
    """Build arrays of all frames [T]; -1 is no parent, and pads shorter code vectors."""
    longest = max(map(len, codes))
    return {
        "ids": np.array([node.id for node in nodes]),
        "parents": np.array([-1 if node.parent is None else node.parent for node in nodes]),
        "actions": np.array([node.action or tuple(REST_VALUES.tolist()) for node in nodes], np.uint8),
        "codes": np.stack([np.pad(c, (0, longest - len(c)), constant_values=-1) for c in codes]),
        "weights": np.array(weights),
    }


def _animation(clip: PathClip, *, smooth: bool) -> Iterator[NDArray[np.uint8]]:
    """Yield all frames enlarged: smooth for a video, in blocks for a GIF and its 256 colours."""
    for frame in clip.frames:
        small = frame.frame_HWC
        large = enlarge(small, _ENLARGED) if smooth else small.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
        yield stamp(large) if frame.dreamed else large


def _write_clip(path: Path, clip: PathClip) -> None:
    steps, seen, manifest = clip.steps(), clip.seen, clip.manifest
    assert manifest is not None, "there are dreamed steps"
    write_dream_clip(
        path,
        context_THWC=clip.frames_THWC(slice(seen)),
        dreamed_SHWC=clip.frames_THWC(slice(seen, None)),
        actions_TA=clip.actions_TA(slice(None)),
        given_T=np.array([True] * (seen - 1) + [step.action_given for step in steps]),
        manifest=manifest,
        codes_TN=clip.codes_TN,
        dreamed_before_T=np.array([frame.dreamed for frame in clip.frames[:seen]]),
    )


def _write_folder(path: Path, clip: PathClip) -> None:
    steps, seen, manifest = clip.steps(), clip.seen, clip.manifest
    assert manifest is not None, "there are dreamed steps"
    with tempfile.TemporaryDirectory(prefix="playloom-") as parent:
        folder = Path(parent) / "path"
        GeneratedClip(
            real_frames_THWC=clip.frames_THWC(slice(seen)),
            real_actions_TA=clip.actions_TA(slice(seen)),
            steps=tuple(steps),
            manifest=manifest,
            codes_TN=clip.codes_TN,
            dreamed_before_T=np.array([frame.dreamed for frame in clip.frames[:seen]]),
        ).write_folder(folder)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for found in sorted(folder.rglob("*")):
                if found.is_file():
                    archive.write(found, found.relative_to(folder))


def read_overlay(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a PNG as an overlay, resized to the frame's size.

    Args:
        png: the bytes of the file.
        size: (H, W) of the frame.

    Returns:
        RGBA, uint8 [H, W, 4].

    Raises:
        PictureError: when it is no PNG, damaged, or transparent everywhere.
    """
    height, width = size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the pixels are what counts
            with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                layer = image.convert("RGBA")
    except Exception as error:  # damaged files make decoders raise anything
        said = "it is no PNG" if isinstance(error, UnidentifiedImageError) else error
        raise PictureError(f"the overlay cannot be read ({said}); send a PNG with transparency") from error
    if layer.size != (width, height):
        layer = layer.resize((width, height), Image.Resampling.LANCZOS)
    overlay_HW4 = np.array(layer)
    if not overlay_HW4[..., 3].any():
        raise PictureError("the overlay is transparent everywhere; there is nothing to lay over the frame")
    return overlay_HW4


def composite(frame_HWC: NDArray[np.uint8], overlay_HW4: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite an overlay, RGBA uint8 [H, W, 4], on a copy of a frame, uint8 [H, W, 3]."""
    alpha_HW1 = overlay_HW4[..., 3:].astype(np.float32) / 255
    mixed_HWC = overlay_HW4[..., :3] * alpha_HW1 + frame_HWC * (1 - alpha_HW1)
    return np.rint(mixed_HWC).astype(np.uint8)
