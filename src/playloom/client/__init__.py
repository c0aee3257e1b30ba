"""Iterating client of a `/score` endpoint: request one step, append it to the context, request the next.

    >>> job = CallJob(start=start_from_picture("me.png")[0], steps=5)  # doctest: +SKIP
    >>> run_call(job).folder  # doctest: +SKIP
    PosixPath('out/call')

The files of every received step are complete, also after an error or an interruption. Files made here carry the visible
watermark and a manifest. The files are in docs/call.md; `steps/01.json` is written last: the step is complete.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import Schema, check_schema
from playloom.actions.script import describe
from playloom.atomic_io import atomic_write, next_free_path
from playloom.client.endpoint import (
    DEFAULT_ENDPOINT,
    ENDINGS,
    ENDPOINT_VARIABLE,
    KEY_VARIABLES,
    MAX_SECONDS,
    Endpoint,
    Key,
    Request,
    choose_action,
    context_entry,
    find_key,
    iter_json,
    printable,
    random_action,
    read_request,
    read_response,
    start_from_file,
    start_from_picture,
)
from playloom.errors import BadInputError, EndpointError, PlayloomError, did_you_mean
from playloom.json_io import from_mapping, read_json
from playloom.media.action_table import write_actions
from playloom.media.images import Picture, RealESRGAN, enlarge, fit_picture, read_picture, write_picture
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest, stamp

__all__ = [
    "DEFAULT_ENDPOINT",
    "ENDPOINT_VARIABLE",
    "KEY_VARIABLES",
    "CallEvents",
    "CallJob",
    "CallReport",
    "Endpoint",
    "Key",
    "find_key",
    "run_call",
    "start_from_file",
    "start_from_picture",
]
Upscale = Literal["lanczos", "realesrgan", "none"]
_MAX_STEPS = 10_000  # a quarter of an hour of play
_CONTEXT_STEPS = 10  # a context grows to this many, or keeps its initial length if that is more
_SHOWN_CHARACTERS = 2048
_GIF_SECONDS = 0.25
_MAX_GIF_FRAMES = 240  # a GIF is encoded in memory: of a longer call it holds the last pictures
_ACTIONS_FILE, _START_FILE = "actions.csv", "start.json"


@dataclass(frozen=True, kw_only=True)
class CallJob:
    """One call: its start, its endpoint and its folder."""

    start: Request | None = None
    """First request (`start_from_file`, `start_from_picture`); None: the one in the folder, with `resume`."""
    steps: int = 10
    """Number of steps, with those received earlier."""
    endpoint: str = DEFAULT_ENDPOINT
    """Address of the endpoint."""
    key: Key | None = field(default=None, repr=False)
    """API key; None: none is sent."""
    out: Path | str = Path("out/call")
    """Output folder; numbered when it is taken and `resume` is False."""
    resume: bool = False
    """Continue the call in `out`."""
    upscale: Upscale = "lanczos"
    """Method of enlarging the pictures to four times their width and height."""
    schema: Schema | Literal["auto"] = "auto"
    """Encoding of the responses' actions."""
    with_tokens: bool = True
    """Send the endpoint's tokens back with its pictures, so that it does not encode them again."""
    seed: int = 0
    """Seed of the random actions."""
    delay: float = 0.0
    """Seconds between a response and the next request."""
    timeout: float = 60.0
    """Seconds for one attempt."""
    retries: int = 4
    """Attempts of one request after the first one, 0 or more."""

    def __post_init__(self) -> None:
        check_schema(self.schema)
        if self.upscale not in get_args(Upscale):
            raise BadInputError(f"unknown upscale {self.upscale!r}; {did_you_mean(self.upscale, get_args(Upscale))}")
        if not 1 <= self.steps <= _MAX_STEPS:
            raise BadInputError(f"steps are out of range: got {self.steps}, expected 1 to {_MAX_STEPS}")
        if not 0 <= self.delay <= MAX_SECONDS:
            raise BadInputError(f"the delay is out of range: got {self.delay:g} s, expected 0 to {MAX_SECONDS:,}")
        if self.seed < 0:
            raise BadInputError(f"the seed is out of range: got {self.seed}, expected 0 or more")
        if self.start is None and not self.resume:
            raise BadInputError("a call has no start; give --payload or --image, or --resume")
        # Not the pictures: base64 may hold a short key by chance.
        texts = (value for _, value in iter_json(self.start, ("image",)) if isinstance(value, str))
        if self.key is not None and any(self.key.redact(text) != text for text in texts):
            raise BadInputError("the payload holds the key; remove it, so that it is not written to the disk")


@dataclass(frozen=True, kw_only=True)
class CallEvents:
    """Callbacks; their texts do not hold the key and are safe to print."""

    step: Callable[[int, int, str], None] = lambda number, of, words: None
    """After every step: its number, the number of steps, and a description."""
    note: Callable[[str], None] = lambda words: None
    """A sentence about a choice, a retry or a warning."""
    reply: Callable[[str], None] | None = None
    """First 2 KB of every response."""


@dataclass(frozen=True, kw_only=True)
class CallReport:
    """Result of a call."""

    folder: Path
    """Output folder."""
    files: tuple[str, ...]
    """Animations and table, as names inside the folder."""
    steps: int
    """Steps in the folder."""
    received: int
    """Steps received by this call; the others were there before."""
    random_steps: tuple[int, ...]
    """Steps without an action in the response."""
    seconds: float
    """Duration, with waits."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    number: int  # from 1
    ending: Literal[".png", ".jpg", ".webp"]  # of the picture's file
    action: tuple[int, ...]  # values in slot order
    source: Literal["reply", "random"]  # of the action; `random` when the response had none
    schema: Schema | None  # of the response's action
    tokens: tuple[int, ...]  # of the picture; may be empty

    @property
    def file(self) -> str:
        return f"raw/{self.number:02}{self.ending}"

    @property
    def large_file(self) -> str:
        return f"sr/{self.number:02}_x4.png"


class _Folder:
    """Received steps, in memory and on disk; nothing is written before the first one."""

    def __init__(self, job: CallJob) -> None:
        """Begin a call in the first free folder of `out`, `out-2`, …, or with `resume` continue the one in `out`.

        With `resume` the start may be None, or must be the stored one; without a call in `out` one begins there.
        """
        self._job = job
        self._done = "marked" if job.upscale == "none" else f"enlarged 4x ({job.upscale})"
        self._enlarge = RealESRGAN() if job.upscale == "realesrgan" else enlarge
        self.steps: list[_Step] = []
        stored = Path(job.out).absolute() / _START_FILE
        if job.resume and stored.exists():
            self.path, known = stored.parent, read_request(stored, "begin a new call")
            if job.start not in (None, known):
                raise BadInputError(
                    f"the call in {job.out} has another start; leave out --payload, --image or --resume"
                )
            self.start, self.steps = known, list(_read_steps(self.path))
        elif job.start is None:
            raise BadInputError(f"{job.out} holds no call to resume; begin one with --payload or --image")
        else:
            self.path, self.start = next_free_path(job.out, numbered=not job.resume), job.start

    def next_request(self) -> Request:
        """Return the start with all steps, or the last ones, in its context."""
        inner, with_tokens = self.start["input_data"], self._job.with_tokens
        most = max(_CONTEXT_STEPS, len(inner["context"]))
        later = [
            context_entry((self.path / step.file).read_bytes(), step.action, step.tokens if with_tokens else ())
            for step in self.steps[-most:]
        ]
        return {**self.start, "input_data": {**inner, "context": [*inner["context"], *later][-most:]}}

    def add(self, step: _Step, data: bytes, picture: Picture) -> None:
        if not self.steps:
            self._write(_START_FILE, json.dumps(self.start).encode())
        self._write(step.file, data)
        content = {name: value for name, value in asdict(step).items() if name != "number"}
        self._write(f"steps/{step.number:02}.json", f"{json.dumps(content)}\n".encode())
        self.steps.append(step)
        self._write_enlarged(step, picture)

    def finish(self) -> tuple[str, ...]:
        """Write table, animations and the enlarged pictures that are missing; return the animations' names."""
        if not self.steps:
            return ()
        write_actions(self.path / _ACTIONS_FILE, [step.action for step in self.steps])
        for step in self.steps:
            if not self._is_enlarged(step):
                self._write_enlarged(step, read_picture(self.path / step.file))
        name = "dream" if self._job.upscale == "none" else "sr/dream_x4"
        manifest = replace(self._manifest(read_picture(self.path / self.steps[0].file)), step=None)
        last = self._frames(self.steps[-_MAX_GIF_FRAMES:])
        write_gif(self.path / f"{name}.gif", last, seconds_per_frame=_GIF_SECONDS, manifest=manifest)
        write_mp4(self.path / f"{name}.mp4", self._frames(self.steps), manifest=manifest)
        return f"{name}.gif", f"{name}.mp4"

    def _write(self, name: str, data: bytes) -> None:
        with atomic_write(self.path / name) as temporary:
            temporary.write_bytes(data)

    def _write_enlarged(self, step: _Step, picture: Picture) -> None:
        if self._job.upscale != "none":
            manifest = self._manifest(picture).at_step(step.number)
            write_picture(self.path / step.large_file, stamp(self._enlarge(picture.frame_HWC)), manifest)

    def _is_enlarged(self, step: _Step) -> bool:
        """Return whether there is an enlarged picture of the step by this job's method."""
        path = self.path / step.large_file
        manifest = read_picture(path).manifest if path.is_file() else None
        return manifest is not None and self._done in manifest.note

    def _frames(self, steps: list[_Step]) -> Iterator[NDArray[np.uint8]]:
        """Marked frames, all of the first one's size, as both formats need."""
        size: tuple[int, int] | None = None
        for step in steps:
            if self._job.upscale == "none":
                frame_HWC = stamp(read_picture(self.path / step.file).frame_HWC)
            else:
                frame_HWC = read_picture(self.path / step.large_file).frame_HWC
            size = size or (frame_HWC.shape[0], frame_HWC.shape[1])
            yield fit_picture(frame_HWC, size)[0]

    def _manifest(self, picture: Picture) -> Manifest:
        """The received picture's own manifest; without one, the known facts."""
        if picture.manifest is not None:
            return replace(picture.manifest, note=f"{picture.manifest.note}; received and {self._done}")
        values = self.start["input_data"]
        names = ("temperature", "top_k", "top_p")
        return Manifest(
            model="a remote endpoint's",
            weights="unknown",
            seed=self._job.seed,
            mode="full",
            sampling={name: values[name] for name in names if isinstance(values.get(name), int | float)},
            note=f"generated by a remote endpoint; received and {self._done}",
        )


def _read_steps(path: Path) -> Iterator[_Step]:
    """The complete steps up to the first gap; later ones are requested again."""
    for number in itertools.count(1):
        try:
            content = read_json(path / f"steps/{number:02}.json", BadInputError, "")
            step = from_mapping(_Step, {"number": number, **content})
        except PlayloomError:
            return
        if not (path / step.file).is_file():
            return
        yield step


def run_call(
    job: CallJob, events: CallEvents | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> CallReport:
    """Request the steps one after another and write each as it arrives.

    After an EndpointError earlier steps are complete, with GIF, MP4 and table; the message says how to continue.
    """
    events, begun = events or CallEvents(), time.monotonic()
    folder = _Folder(job)
    before = len(folder.steps)
    endpoint = Endpoint(
        job.endpoint, job.key, timeout=job.timeout, retries=job.retries, on_retry=events.note, sleep=sleep
    )
    if endpoint.exposes_key:
        events.note(f"the key is sent unencrypted to {endpoint.shown}; use https where the endpoint has it")
    try:
        with endpoint:
            for number in range(before + 1, job.steps + 1):
                if number > 1 and job.delay:
                    sleep(job.delay)
                _request_step(number, job, folder, endpoint, events)
    finally:  # also when interrupted
        files = folder.finish()
    return CallReport(
        folder=folder.path,
        files=(*files, _ACTIONS_FILE),
        steps=len(folder.steps),
        received=len(folder.steps) - before,
        random_steps=tuple(step.number for step in folder.steps if step.source == "random"),
        seconds=time.monotonic() - begun,
    )


def _request_step(number: int, job: CallJob, folder: _Folder, endpoint: Endpoint, events: CallEvents) -> None:
    begun = time.monotonic()
    try:
        body = endpoint.send(folder.next_request())
        if events.reply is not None:
            events.reply(printable(endpoint.redact(body.decode("utf-8", "replace")), _SHOWN_CHARACTERS))
        response = read_response(body)
    except EndpointError as error:
        kept = f"; {number - 1} complete in {folder.path}: continue with --resume --out {folder.path}"
        raise EndpointError(f"step {number} of {job.steps} failed: {error}{kept if number > 1 else ''}") from error
    last = next((step.schema for step in reversed(folder.steps) if step.schema is not None), None)
    found = choose_action(response.rows, job.schema, last)
    if found is None:
        reason = f"no action in the {job.schema} schema" if response.rows else "no list of 16 numbers"
        events.note(f"step {number}: the response holds {reason}; a random action is used (seed {job.seed})")
    elif job.schema == "auto" and found[1] != last:
        events.note(f"step {number}: the response's actions are read in the {found[1]} schema, by their numbers")
    values_A, schema = found or (random_action(job.seed, number), None)
    step = _Step(
        number=number,
        ending=ENDINGS[response.picture.format],
        action=tuple(values_A.tolist()),
        source="random" if schema is None else "reply",
        schema=schema,
        tokens=response.tokens,
    )
    folder.add(step, response.data, response.picture)
    source = f"{schema}, from the response" if schema else "random"
    seconds = time.monotonic() - begun
    events.step(number, job.steps, f"{step.file}  {describe(values_A)} ({source})  {seconds:.1f} s")
