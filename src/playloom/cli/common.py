"""Parts that several commands share: options, checks of flags, progress, stop signals and JSON. Imports no torch."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.atomic_io import check_own_folder, ensure_writable
from playloom.errors import BadInputError, ConfigError
from playloom.json_io import read_json

if TYPE_CHECKING:
    from rich.console import Console

SKIPPED = 1
"""Exit code when some inputs were left out."""
UNFINISHED = 3
"""Exit code of a training that was saved before its end; the same command continues it."""


def _check_device(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    return name


def _decode_order(text: str | int) -> int | str:
    if text == "raster":
        return text
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"unknown decode order {text!r}; expected raster or a whole number k") from None


def own_folder(out: Path | None) -> Path | None:
    """Check an --out that is written into (callback of an option)."""
    if out is not None:
        check_own_folder(out)
    return out


def numbered_folder(out: Path | None) -> Path | None:
    """Check an --out that is numbered when it holds an earlier result (callback of an option)."""
    if out is not None:
        ensure_writable(out, numbered=True)
    return out


def rectangle(text: str, option: str, *, signed: bool = False) -> tuple[int, int, int, int]:
    """Parse x, y, width and height in pixels; `signed`: x and y may be negative, as on a screen of two monitors."""
    corner = r"-?\d+" if signed else r"\d+"
    if not re.fullmatch(rf"{corner},{corner},\d+,\d+", text):
        raise BadInputError(f"{option} is wrong: got {text!r:.40}, expected x,y,width,height in pixels")
    x, y, width, height = map(int, text.split(","))
    return x, y, width, height


Resize = Annotated[
    Literal["crop", "letterbox", "stretch"],
    typer.Option(help="Crop pictures of another shape, add black bars, or change their shape."),
]
Schema = Annotated[Literal["named", "binned", "auto"], typer.Option(help="Encoding of the numbers in CSV files.")]
Model = Annotated[str | None, typer.Option(help="A bundled model's name, or a folder.")]
_DEVICE: Any = typer.Option(
    callback=_check_device, autocompletion=lambda: ["auto", "cpu", "cuda"], help="auto, cpu or cuda."
)
Device = Annotated[str, _DEVICE]
DeviceOrNone = Annotated[str | None, _DEVICE]
DecodeOrder = Annotated[
    Any,
    typer.Option(
        parser=_decode_order,
        metavar="raster|K",
        help="raster, or the row delay k: 1 is fastest, the grid's width is raster. Default: the model's card.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: OMP_NUM_THREADS, else the cores this process may use.")
]
TopK = Annotated[int | None, typer.Option(min=1, help="Sample from the k most likely tokens only.")]
TopP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Sample from the most likely tokens with total probability p.")
]
NumberedOut = Annotated[
    Path, typer.Option(callback=numbered_folder, help="Output folder; numbered after an earlier one.")
]
_BACKEND = typer.Option(
    help="torch; onnx: onnxruntime, on a CPU; onnx-int8: with 8-bit weights; auto: onnx-int8 on a CPU, if it can."
)
Backend = Annotated[Literal["torch", "onnx", "onnx-int8", "auto"], _BACKEND]
BackendOrNone = Annotated[Literal["torch", "onnx", "onnx-int8", "auto"] | None, _BACKEND]
Timestamp = Annotated[
    bool, typer.Option("--timestamp", help="Put the time into manifests; two runs then differ in their bytes.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON, for programs.")]

# -- Groups of options: several commands share each ------------------------------------------------------------------


def engine(
    model: Model = None, decode_order: DecodeOrder = None, device: Device = "auto", backend: Backend = "auto"
) -> None:
    """The model, and how it decodes."""


def prompt(
    prompt: Annotated[
        str | None,
        typer.Option(help="A prompt's name, a picture, a folder of them, a recording, video, dream, .npz or dataset."),
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Steps of context; at most the model's own 10.")] = 10,
    start_step: Annotated[int | None, typer.Option(min=0, help="The last step of the context.")] = None,
    resize: Resize = "crop",
    schema: Schema = "named",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    timestamp: Timestamp = False,
) -> None:
    """The start of a dream."""


def sampling(
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy; default: the model's card, else 0.9.", show_default=False)
    ] = None,
    top_k: TopK = None,
    top_p: TopP = None,
    action_temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Temperature of generated inputs; default: --temperature, else the model's card."),
    ] = None,
    risk_weight: Annotated[
        float | None,
        typer.Option(min=0, help="Preference for codes near the expected one. Default: the model's card, else 0."),
    ] = None,
) -> None:
    """The sampling of tokens."""


def with_options(*groups: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add groups of options to a command.

    Each group is a function whose parameters are options. The command gets their values as one dict, in the parameter
    with the group's name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        options = {group.__name__: inspect.signature(group, eval_str=True).parameters for group in groups}

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            grouped = {group: {name: values.pop(name) for name in names} for group, names in options.items()}
            command(**values, **grouped)

        parameters = [
            option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            for option in (options[name].values() if name in options else [parameter])
        ]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def refuse(context: typer.Context, names: Collection[str], why: str) -> None:
    """Raise an error when the user gave one of these parameters; `why` ends the sentence: "applies to --clips only"."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise BadInputError(f"{parameter.opts[0]} {why}; leave it out")


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as one line of JSON."""
    typer.echo(json.dumps(result, default=str))


def read_settings(path: Path | None) -> dict[str, Any]:
    """Read the settings in a JSON file; none without a file."""
    return {} if path is None else read_json(path, ConfigError, "give a JSON object of settings")


def count(number: int, what: str) -> str:
    """A number with its noun, in the singular or plural."""
    return f"{number} {what}{'s' * (number != 1)}"


def text_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format columns of equal width below a ruled head."""
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *lines)]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


# -- Ctrl-C and SIGTERM ---------------------------------------------------------------------------------------------


class Stop:
    """Signal state: Ctrl-C or SIGTERM, and its exit code."""

    code = 0
    """130 after Ctrl-C, 143 after SIGTERM; 0 before."""

    def __call__(self) -> bool:
        """Return True after a signal."""
        return self.code != 0


@contextmanager
def stopping(left: str, *, after_step: bool) -> Iterator[Stop]:
    """End the body on Ctrl-C or SIGTERM with a message that ends with `left`: "finished games are kept".

    With `after_step` the first signal is only noted, for a body that calls `stop()`; the second one interrupts.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        first, stop.code = not stop(), 128 + number
        if first and after_step:
            return
        restore()
        raise KeyboardInterrupt

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield stop
    except KeyboardInterrupt:
        typer.echo(f"stopped; {left}", err=True)
        raise typer.Exit(stop.code or 128 + signal.SIGINT) from None
    finally:
        restore()


# -- Progress -------------------------------------------------------------------------------------------------------


class Progress:
    """Progress of one command: a bar in a terminal, else a line on stderr every ten seconds."""

    def __init__(self, console: Console, what: str, unit: str, plain: bool) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.console, self._unit = console, unit
        self._first: tuple[str, int, float] | None = None
        self._stage: str | None = None
        self._later = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[text]}"))
        self.bar = Bar(*columns, console=console, transient=True, disable=plain)
        self._task = self.bar.add_task(what, total=None, text="starting")

    def __call__(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """Show that `done` of `total` units of `what` are done."""
        now, what = time.monotonic(), self._stage or what or self.bar.tasks[0].description
        if self._first is None or self._first[0] != what:  # what was done before does not count for the rate
            self._first = what, done, now
        rate = (done - self._first[1]) / max(now - self._first[2], 1e-9)
        text = f"{done}{'' if total is None else f' of {total}'}{f' {self._unit}' if self._unit else ''}"
        if rate > 0:
            text += f", {rate:.3g}/s"
        left = 0 if rate <= 0 or total is None else (total - done) / rate + self._later
        if left > 0:  # else what follows has no progress of its own, such as writing the files
            text += f", {_duration(left)} left"
        self.show(text, None if total is None else done / max(total, 1), what)

    def stage(self, name: str, later: float) -> None:
        """Show the work that follows as a stage of several; the time left includes the later ones' `later` seconds."""
        if name != self._stage:
            self.show("starting", what=name)
        self._stage, self._later = name, later

    def show(self, text: str, fraction: float | None = None, what: str | None = None) -> None:
        """Show any text, and a bar where a fraction in [0, 1] is known."""
        done = {"total": None} if fraction is None else {"total": 1.0, "completed": fraction}
        self.bar.update(self._task, description=what, text=text, **done)

    def print(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def of(self, what: str) -> Callable[[int, int], None]:
        """A callback (done, total) for a part of the work."""
        return lambda done, total: self(done, total, what)

    def training(self, progress: Any) -> None:
        """Show a training's report, or print the figures of a validation."""
        if not progress.rates:
            figures = "  ".join(f"{k.split('/')[-1]} {v:.4g}" for k, v in progress.metrics.items())
            self.print(f"step {progress.step}  {figures}")
            return
        rates = " ".join(f"{v:,.0f} {k}/s" for k, v in progress.rates.items() if k != "flops")
        loss = progress.metrics.get("loss", float("nan"))
        text = f"{100 * progress.fraction:.0f} %, step {progress.step}, loss {loss:.4g}, {rates}"
        left = _duration(progress.eta + self._later)
        self.show(f"{text}, {left} left", progress.fraction, self._stage or "training")


@contextmanager
def progress(
    what: str, unit: str = "", *, quiet: bool = False, timed: bool = False, every: float = 10.0
) -> Iterator[Progress]:
    """Show the progress of the body on stderr: "dreaming", "frames".

    `timed` draws no bar, which would disturb a measurement; `every` is the time between two plain lines, in seconds.
    """
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    plain = timed or not console.is_terminal
    shown = Progress(console, what, unit, plain)
    over = threading.Event()

    def tell() -> None:
        while not over.wait(every):
            task = shown.bar.tasks[0]
            shown.print(f"{task.description}: {task.fields['text']} ({_duration(task.elapsed or 0)} so far)")

    teller = threading.Thread(target=tell, name="playloom-progress", daemon=True)
    if plain and not quiet:
        teller.start()
    try:
        with shown.bar:
            yield shown
    finally:
        over.set()
        if teller.is_alive():
            teller.join()


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def read_script(prompt: Mapping[str, Any], script: str | None, model: str | None) -> tuple[Any, tuple[str, ...]]:
    """Check the prompt's name and read actions without torch: values [S, 16], None without a script, and notes."""
    from playloom.data.prompts import check_prompt
    from playloom.media.action_table import read_inputs

    if prompt["prompt"] is not None:
        check_prompt(prompt["prompt"], None if model is None else Path(model))
    if script is None:
        return None, ()
    given = read_inputs(script, prompt["schema"], None)
    return given.values_SA, given.notes


def has_display() -> bool:
    """Return True if a browser window can be opened here."""
    return os.name == "nt" or os.uname().sysname == "Darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
