"""What can be known of the way on a GPU without one: frames on `meta` tensors, and captures played back on a CPU.

On `meta` nothing has a value: what would make the host wait for the device raises, and every operator is looked at. The
tape does to operators what a CUDA graph does: it notes them with the very tensors they came with, and does them again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from model_toys import with_heads
from playloom.actions.codec import SLOT_SIZES
from playloom.inference.cuda_graphs import FrameGraphs, cuda_capture
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import StepInput
from playloom.inference.torch_backend import CachedDecoder
from playloom.inference.torch_sampling import BatchSampler
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import schedule

GREEDY, HOT = Sampling(temperature=0.0), Sampling(temperature=1.5)
CUT = Sampling(temperature=1.5, top_k=5, top_p=0.9, risk_weight=4.0)
FORMS = [("rolling", True, 1), ("rolling", True, None), ("absolute", True, 1), ("absolute", False, None)]
VIEWS = ("view", "slice", "unsqueeze", "transpose", "flatten", "to.dtype")
"""Operators that launch nothing, as they come in a pass."""


class Watch(TorchDispatchMode):
    """Notes every operator; refuses one that mixes devices, and where `strict` any that a capture forbids."""

    def __init__(self, strict: bool) -> None:
        super().__init__()
        self.strict, self.launched = strict, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        name = str(func)
        devices = {t.device.type for t in tensors(args, kwargs) if t.ndim} | {t.device.type for t in tensors(out)}
        if self.strict:
            assert devices <= {"meta"}, f"{name} touches {devices} within a capture"
            assert "lift_fresh" not in name, f"{name}: the host's numbers would be copied within a capture"
            assert not any(word in name for word in ("rand", "nonzero", "_local_scalar", "unique")), name
        else:
            assert len(devices) <= 1 or "copy" in name or "aten.to." in name, f"{name} mixes {devices}"
        self.launched += not any(f"aten.{word}." in f"{name}." for word in VIEWS)
        return out


def tensors(*trees: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


class Tape(TorchDispatchMode):
    """Captures as a CUDA graph does. What operators make lies where it lay the first time; views are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[Callable[..., object], tuple, dict, dict[int, Tensor]]] = []  # type: ignore[type-arg]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        assert "lift_fresh" not in str(func) and "_local_scalar" not in str(func), f"{func} within a capture"
        out = func(*args, **kwargs)
        known = {t.untyped_storage().data_ptr() for t in tensors(args, kwargs)}
        made = enumerate(tensors(out))
        fresh = {index: t for index, t in made if t.untyped_storage().data_ptr() not in known}
        if fresh or func._schema.is_mutable:
            self.notes.append((func, args, kwargs, fresh))
        return out

    def play(self) -> None:
        for func, args, kwargs, fresh in self.notes:
            again = tensors(func(*args, **kwargs))
            for index, kept in fresh.items():
                kept.copy_(again[index])


def test_pixels_of_dreamed_codes_wait_for_nothing():
    """So the pixel decoder's launches are under way while the frame's own graph still runs."""
    tokenizer = loud_model(tiny_config()).tokenizer.to("meta")
    codes = torch.zeros(2, tokenizer.config.image_slots, dtype=torch.int64, device="meta")
    with Watch(strict=True) as watch:
        frames = tokenizer.decode(codes, checked=False)
    assert frames.shape == (2, tokenizer.config.frame_height, tokenizer.config.frame_width, 3) and watch.launched
    with pytest.raises(RuntimeError), Watch(strict=True):
        tokenizer.decode(codes)


def begun(decoder: CachedDecoder):  # type: ignore[no-untyped-def]
    """A batch of one dream that has seen nothing."""
    state = decoder.begin()
    decoder.arrange([state])
    return decoder.batch([state])


class Recorder:
    """A capture for `FrameGraphs`. Unlike a graph's it does the work too, which doing it again makes good."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        with Tape() as tape:
            work()

        def replay() -> None:
            self.replayed += 1
            tape.play()

        return replay


def graphed(model: WorldModel, row_delay: int | None) -> tuple[Engine, Recorder]:
    """A engine that decodes as on a GPU: captured runs, turns as products."""
    engine, recorder = Engine(model, row_delay=row_delay), Recorder()
    assert isinstance(engine.decoder, CachedDecoder)
    engine.decoder.graphs, engine.decoder.as_matrices = FrameGraphs(recorder), True
    return engine, recorder


@pytest.mark.parametrize(
    ("positions", "rows", "row_delay", "changes"),
    [
        (*FORMS[0], {"local_steps": 2, "global_every": 2}),
        (*FORMS[0], {"parallel": True}),
        *((*f, {}) for f in FORMS[2:]),
    ],
)
@torch.inference_mode()
def test_a_frame_mixes_no_devices_and_never_waits(positions, rows, row_delay, changes):
    """Two dreams of other ages on `meta`: prefill, actions given and dreamed, frames; until the window has slid."""
    model = loud_model(tiny_config(positions, rows, context_steps=3, **changes)).to("meta", torch.bfloat16)
    layout = model.config.layout
    decoder = CachedDecoder(model.transformer, layout, schedule(layout, row_delay), with_features=True)
    captured = []

    def capture(work):  # type: ignore[no-untyped-def]
        with Watch(strict=True) as watch:
            work()
        captured.append(watch.launched)
        return lambda: None

    decoder.graphs, decoder.as_matrices = FrameGraphs(capture), True
    states = [decoder.begin(), decoder.begin()]
    values_2A = torch.zeros(2, 16, dtype=torch.int64)  # as they come: on the host
    draws = BatchSampler([HOT, CUT], torch.zeros(2, layout.image_slots, 16, device="meta"))
    pressed = BatchSampler([HOT, CUT], torch.zeros(2, 16, max(SLOT_SIZES), device="meta"))
    with Watch(strict=False):
        decoder.arrange(states)
        for _ in range(2):
            decoder.give_frame(states[:1], torch.zeros(1, layout.image_slots, dtype=torch.int64))
            decoder.give_action(states[:1], values_2A[:1])
        for step in range(5):
            decoder.dream_frame(states, draws)
            assert decoder.features(states).dtype == torch.float32
            if step % 3:
                decoder.give_action(states, values_2A)
            else:
                decoder.dream_action(states, pressed)
    assert len(captured) == 2 and min(captured) > 0


@pytest.mark.parametrize(("positions", "rows", "row_delay"), [FORMS[0], *FORMS[2:]])
def test_captured_frames_are_the_frames(positions, rows, row_delay):
    """Dreams of other ages, samplings and lengths join, leave and branch; played back, each gets its tokens."""
    model = with_heads(loud_model(tiny_config(positions, rows, local_steps=2, global_every=2)))
    plain, (fast, recorder) = Engine(model, row_delay=row_delay), graphed(model, row_delay)
    found = []
    for engine in (plain, fast):
        hows = [GREEDY, HOT, CUT]
        open_ones = [engine.open(prompt_of(4, n), sampling=how, seed=n) for n, how in enumerate(hows)]
        steps = []
        for tick in range(12):
            if tick == 7:  # the memory grows: what was captured is of no use
                open_ones += [open_ones[0].fork(9), open_ones[1].fork(9)]
            here = open_ones if tick % 5 else open_ones[1:]
            inputs = [StepInput(s, action(tick) if tick != 6 else None) for s in here]
            steps += engine.step(inputs, entropy=True)
        found.append(steps)
    assert all((a.codes_N == b.codes_N).all() for a, b in zip(*found, strict=True))
    assert all(a.entropy == pytest.approx(b.entropy, rel=1e-4) and a.entropy > 0 for a, b in zip(*found, strict=True))
    assert all(a.prediction.reward == pytest.approx(b.prediction.reward, abs=1e-5) for a, b in zip(*found, strict=True))
    assert recorder.captured >= 4 and recorder.replayed > recorder.captured


def test_captures_are_given_up_with_the_memory_they_work_in_and_few_are_kept():
    model = loud_model(tiny_config())
    engine, recorder = graphed(model, 1)
    graphs = engine.decoder.graphs
    first = engine.open(prompt_of(4))
    for step in range(3):
        first.step(action(step))
    assert len(graphs._replays) == 2 and recorder.captured == 2  # a given action and a frame
    sessions = [first, *(engine.open(prompt_of(4, seed), seed=seed) for seed in range(1, 5))]
    engine.step([StepInput(s, action(0)) for s in sessions])
    assert not graphs._replays
    for index in range(20):  # other samplings are other work
        first.sampling = Sampling(temperature=1.0, top_p=0.5 + index / 200)
        for step in range(2):
            first.step(action(step))
    assert len(graphs._replays) <= 16 and len(graphs._seen) <= 16


@pytest.mark.parametrize("also", [False, True])
def test_no_memory_for_a_capture_is_no_end(tiny_model, also):
    """A capture takes memory of its own; without it frames are run as before, whatever else is complained of."""
    plain, (fast, _) = Engine(tiny_model, row_delay=1), graphed(tiny_model, 1)

    def capture(work):  # type: ignore[no-untyped-def]
        try:
            work()
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            if also:
                raise RuntimeError("operation failed due to a previous error during capture")

    fast.decoder.graphs = FrameGraphs(capture)
    found = []
    for engine in (plain, fast):
        session = engine.open(prompt_of(4), seed=3)
        found.append([session.step(action(step)).codes_N for step in range(5)])
    assert all((a == b).all() for a, b in zip(*found, strict=True))


def test_a_capture_that_fails_otherwise_says_so(tiny_model):
    engine, _ = graphed(tiny_model, 1)
    engine.decoder.graphs = FrameGraphs(lambda work: 1 / 0)  # type: ignore[arg-type,return-value]
    session = engine.open(prompt_of(4))
    with pytest.raises(ZeroDivisionError):
        for step in range(4):
            session.step(action(step))


def test_only_a_gpu_captures():
    assert cuda_capture(torch.device("cpu")) is None and cuda_capture(torch.device("meta")) is None


@torch.inference_mode()
def test_a_pass_launches_little():
    """What a pass costs on a GPU is its number of kernels; counted as torch is asked, attention as one."""
    launched = []
    for layers in (1, 2):
        config = tiny_config(layers=layers, kv_heads=None, qk_norm=False, local_steps=None)
        decoder = CachedDecoder(loud_model(config).to("meta").transformer, config.layout, schedule(config.layout, 1))
        decoder.as_matrices = True
        batch = begun(decoder)
        steps_B = decoder._steps(batch)
        draws = BatchSampler([HOT], torch.zeros(1, config.layout.image_slots, 16, device="meta"))
        with Watch(strict=True) as before:
            decoder._tables(batch, steps_B)
        with Watch(strict=True) as watch:
            decoder._frame_passes(batch, steps_B, draws)
        launched.append((watch.launched - before.launched) / decoder.schedule.image_passes)
    a_layer = launched[1] - launched[0]
    assert a_layer == 13 and launched[0] - a_layer <= 16
