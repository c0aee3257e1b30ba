"""Exports: one path of a story as a file, a whole story as a zip; overlays of edits.

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
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.actions.codec import REST_VALUES
from playloom.errors import BadInputError, PictureError
from playloom.media.action_table import write_actions
from playloom.media.clips import write_npz
from playloom.media.images import enlarge
from playloom.media.output_folder import GeneratedClip, OutputStep
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, frames_hash, stamp
from playloom.server.stories.schemas import Node, StoryInfo
from playloom.server.stories.store import Frame, StoryDir

PathKind = Literal["mp4", "gif", "csv", "npz", "zip"]
_ENLARGED = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class PathClip:
    """The frames of a path in order, read from disk."""

    nodes: tuple[Node, ...]  # nodes from the root on
    frames: tuple[Frame, ...]

    @property
    def seen(self) -> int:
        """Number of start frames: those before the first frame generated here; at least one."""
        for index, (node, frame) in enumerate(zip(self.nodes, self.frames, strict=True)):
            if frame.manifest is not None and (node.branch is not None or node.edit_of is not None):
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
        note = "generated" if len(parts) == 1 else "generated, a path of several branches"
        return replace(
            made[-1],
            mode="full" if any(manifest.mode == "full" for manifest in made) else made[-1].mode,
            parent=frames_hash(np.stack([frame.frame_HWC for frame in self.frames[: self.seen]])),
            step=None,
            note=f"{note}, with frames edited by hand" if edited else note,
        )

    def generated(self) -> GeneratedClip:
        """Return the path as a prompt and the steps after it; BadInputError when no frame was generated here."""
        seen, manifest = self.seen, self.manifest
        if seen == len(self.nodes) or manifest is None:
            raise BadInputError(f"nothing has been dreamed on the path to frame {self.nodes[-1].id}; branch from it")
        actions = [node.action for node in self.nodes if node.action is not None]  # all but the root's
        actions_TA = np.array(actions, np.uint8).reshape(-1, len(REST_VALUES))
        after = zip(self.nodes[seen:], self.frames[seen:], actions_TA[seen - 1 :], strict=True)
        known = all(frame.weights == manifest.weights for frame in self.frames)
        return GeneratedClip(
            real_frames_THWC=np.stack([frame.frame_HWC for frame in self.frames[:seen]]),
            real_actions_TA=actions_TA[: seen - 1],
            steps=tuple(
                OutputStep(frame.frame_HWC, action_A, node.action_source == "player") for node, frame, action_A in after
            ),
            manifest=manifest,
            dreamed_before_T=np.array([frame.manifest is not None for frame in self.frames[:seen]]),
            codes_TN=np.stack([frame.codes_N for frame in self.frames]) if known else None,
        )


def load_path(directory: StoryDir, nodes: Sequence[Node]) -> PathClip:
    """Read the frames of a path."""
    return PathClip(nodes=tuple(nodes), frames=tuple(directory.read_frame(node.id) for node in nodes))


def export_path(clip: PathClip, kind: PathKind) -> bytes:
    """Return a path as a file; see the table above. BadInputError for csv, npz, zip when nothing was generated here."""
    with tempfile.TemporaryDirectory(prefix="playloom-") as temporary:
        path = Path(temporary) / f"path.{kind}"
        if kind == "mp4":
            write_mp4(path, _animation(clip, smooth=True), manifest=clip.manifest)
        elif kind == "gif":
            write_gif(path, _animation(clip, smooth=False), manifest=clip.manifest)
        elif kind == "csv":
            write_actions(path, clip.generated().actions)
        elif kind == "npz":
            clip.generated().save(path)
        else:
            folder = clip.generated().write_folder(Path(temporary) / "path").folder
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                    archive.write(file, file.relative_to(folder))
        return path.read_bytes()


def write_story(file: IO[bytes], directory: StoryDir, info: StoryInfo) -> None:
    """Write a whole story as a zip; in the arrays -1 is no parent, and pads shorter code vectors."""
    codes, weights = [], []
    with zipfile.ZipFile(file, "w") as archive, tempfile.TemporaryDirectory(prefix="playloom-") as temporary:
        archive.writestr("story.json", info.model_dump_json(indent=1), zipfile.ZIP_DEFLATED)
        for node in info.nodes:  # one at a time: a story may be larger than the memory
            frame = directory.read_frame(node.id)
            archive.writestr(f"pictures/{node.id:04}.png", frame.png())
            codes.append(frame.codes_N.astype(np.int32))
            weights.append(frame.weights)
        longest = max(map(len, codes))
        arrays = {
            "ids": np.array([node.id for node in info.nodes]),
            "parents": np.array([-1 if node.parent is None else node.parent for node in info.nodes]),
            "actions": np.array([node.action or tuple(REST_VALUES.tolist()) for node in info.nodes], np.uint8),
            "codes": np.stack([np.pad(c, (0, longest - len(c)), constant_values=-1) for c in codes]),
            "weights": np.array(weights),
        }
        path = Path(temporary) / "codes.npz"
        write_npz(path, arrays)
        archive.write(path, path.name)


def _animation(clip: PathClip, *, smooth: bool) -> Iterator[NDArray[np.uint8]]:
    """Yield all frames enlarged: smooth for a video, in blocks for a GIF and its 256 colours."""
    for frame in clip.frames:
        small = frame.frame_HWC
        large = enlarge(small, _ENLARGED) if smooth else small.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
        yield large if frame.manifest is None else stamp(large)


def read_overlay(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a PNG with a visible pixel as an overlay, RGBA uint8 [H, W, 4], resized to `size`, (H, W)."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            layer = image.convert("RGBA")
    except Exception as error:  # damaged files make decoders raise anything
        raise PictureError("the overlay cannot be read; send a PNG with transparency") from error
    if layer.size != size[::-1]:
        layer = layer.resize(size[::-1], Image.Resampling.LANCZOS)
    overlay_HW4 = np.array(layer)
    if not overlay_HW4[..., 3].any():
        raise PictureError("the overlay is transparent everywhere: got no visible pixel, expected some")
    return overlay_HW4


def composite(frame_HWC: NDArray[np.uint8], overlay_HW4: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite an overlay, RGBA uint8 [H, W, 4], on a copy of a frame, uint8 [H, W, 3]."""
    alpha_HW1 = overlay_HW4[..., 3:].astype(np.float32) / 255
    mixed_HWC = overlay_HW4[..., :3] * alpha_HW1 + frame_HWC * (1 - alpha_HW1)
    return np.rint(mixed_HWC).astype(np.uint8)
