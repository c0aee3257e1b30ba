"""Data card (`card.md`) and report with pictures (`report.html`) of an imported dataset. F rows."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.actions.codec import BIN_VALUES, REST_BIN, REST_VALUES, SLOT_NAMES, SLOT_SIZES
from playloom.atomic_io import atomic_write
from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.data.importing.clock import LAGS, ClockCorrection, ClockEstimate
from playloom.data.importing.recordings import Recording
from playloom.data.importing.resample import STEP
from playloom.media.contact_sheet import Tile, contact_sheet, held_inputs

CARD, REPORT = "card.md", "report.html"
"""Names of the files, in the folder of the dataset."""
_PAIRS = 2000  # neighbouring pictures that are compared, at most
_STRIPS, _TILES, _APART = 10, 6, 3
_RARE = 0.01  # share of the time below which a control or situation is rare
_SITUATIONS = 3
_ROWS = 200  # recordings, clocks and skipped files that are listed
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ddd}table{border-collapse:collapse}
td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:top}th{color:#666;font-weight:600}
img{width:100%;display:block;margin:.4em 0}figure{display:inline-block;margin:0 1.5em 1em 0}figcaption{color:#666}"""


class Table(NamedTuple):
    """A section of card and report."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""  # sentences above the rows

    def markdown(self) -> str:
        """Return the section as Markdown: a list where there is one column."""
        lines = [f"## {self.title}", "", *([_cell(self.text), ""] if self.text else [])]
        if len(self.header) == 1:
            lines += [f"* {_cell(row[0])}" for row in self.rows]
        elif self.rows:
            cells = [self.header, ["---"] * len(self.header), *([_cell(cell) for cell in row] for row in self.rows)]
            lines += [" | ".join(("", *row, "")).strip() for row in cells]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Return the section as HTML."""
        rows = [[f"<td>{escape(cell)}</td>" for cell in row] for row in self.rows]
        rows = [[f"<th>{escape(cell)}</th>" for cell in self.header], *rows] if any(self.header) else rows
        lines = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
        text = f"<p>{escape(self.text)}</p>" if self.text else ""
        return f"<h2>{escape(self.title)}</h2>{text}<table>{lines}</table>"


def write_report(
    dataset: FrameDataset | TokenDataset,
    recordings: Mapping[str, Recording],
    estimates: Mapping[str, ClockEstimate],
    notes: Sequence[str],
    skipped: Sequence[str],
) -> None:
    """Write card and report into the dataset's folder.

    `recordings` and `estimates` of clocks are by name in the clips' metadata; `notes` and `skipped` are those of the
    import.
    """
    name = dataset.folder.resolve().name
    tables = [_summary(dataset, recordings), *_measured(dataset), _recordings(dataset, recordings, estimates)]
    tables += [
        Table("What was found, fitted, cut and clipped", ("",), [(note,) for note in notes[:_ROWS]]),
        Table("Skipped", ("",), [(fault,) for fault in skipped[:_ROWS]], "" if skipped else "Nothing was skipped."),
        Table(
            "Privacy",
            ("kept", "dropped"),
            [
                ("pictures" if isinstance(dataset, FrameDataset) else "codes of pictures", "audio"),
                ("the sixteen controls", "keys that are not in the mapping, so typed text"),
                (f"state columns: {', '.join(dataset.state_columns) or 'none'}", "window titles, names, hardware ids"),
                ("file names of recordings, and dates in them", "other dates and times of day"),
            ],
            "Pictures may show names and chats: mask them with --mask.",
        ),
    ]
    sections = [table.html() for table in tables]
    body = "".join([*sections[:2], _strips(dataset), _sticks(dataset), *sections[2:]])
    if estimates:
        curves = "".join(_curve(take, estimate) for take, estimate in list(estimates.items())[:_ROWS])
        body += f"<h2>Share of the motion that the input explains, by its lag</h2>{curves}"
    head = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{_STYLE}</style>'
    page = f'<html lang="en"><head>{head}</head><body><h1>Data set {escape(name)}</h1>{body}</body></html>'
    card = "\n".join([f"# Data card: {_cell(name)}\n", *(table.markdown() for table in tables)])
    for file, text in ((CARD, card), (REPORT, f"<!DOCTYPE html>{page}\n")):
        with atomic_write(dataset.folder / file) as path:
            path.write_text(text, encoding="utf-8")


def _summary(dataset: FrameDataset | TokenDataset, recordings: Mapping[str, Recording]) -> Table:
    used = [recordings[take] for take in dict.fromkeys(span.meta["take"] for span in dataset.spans)]
    data: NDArray[Any] = dataset.frames_FHWC if isinstance(dataset, FrameDataset) else dataset.tokens_FN
    form = f"frames of {data.shape[2]} x {data.shape[1]} pixels" if data.ndim == 4 else f"{data.shape[1]} codes a frame"
    form += f", of the tokenizer {dataset.tokenizer}" if isinstance(dataset, TokenDataset) else ""
    rows = np.concatenate([np.arange(span.start, span.rows.stop - 1) for span in dataset.spans])
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(_PAIRS, len(rows))).astype(int))] if len(rows) else rows
    same, pairs = sum(bool((data[row] == data[row + 1]).all()) for row in chosen.tolist()), len(chosen)
    held = Counter[str]()
    for control, count in _coverage(dataset.actions_FA).items():
        held[control.split(" ")[0]] += count
    mappings = [" + ".join(one.options.mapping or one.mapping) for one in used]
    idle = float((dataset.actions_FA == REST_VALUES).all(axis=1).mean())
    return Table(
        "Summary",
        ("", ""),
        [
            ("recordings", f"{len(used)}, of {_time(sum(map(_seconds, used)))}"),
            ("kept", f"{_time(STEP * len(dataset))}: {len(dataset)} steps of 0.1 s in {len(dataset.spans)} clips"),
            ("stored", form),
            ("formats", _counts(one.format for one in used)),
            ("mapping", _counts(mappings)),
            ("idle", f"{idle:.1%} of the steps have all controls at rest"),
            ("duplicated frames", f"{same} of {pairs} neighbouring pairs ({same / max(1, pairs):.1%})"),
            ("unused controls", ", ".join(control for control, count in held.items() if not count) or "none"),
            ("state columns", ", ".join(dataset.state_columns) or "none"),
        ],
    )


def _measured(dataset: FrameDataset | TokenDataset) -> list[Table]:
    splits, clips = Counter[str](), Counter(span.meta["split"] for span in dataset.spans)
    for span in dataset.spans:
        splits[span.meta["split"]] += span.length
    by_split = [(name, _time(STEP * rows), str(clips[name])) for name, rows in splits.items()]
    seen = {name: rows for name, rows in (_coverage(dataset.actions_FA) | _situations(dataset)).items() if rows}
    rare = [name for name, rows in seen.items() if rows < _RARE * len(dataset)]
    more = f"Record more of: {', '.join(rare)}." if rare else "No control that is used, and no situation, is rare."
    by_use = [(name, f"{STEP * rows:.1f}", f"{rows / len(dataset):.1%}") for name, rows in seen.items()]
    return [
        Table("Splits", ("split", "time", "clips"), by_split, "Recordings of one session are in one split."),
        Table("Coverage", ("control or situation", "seconds", "share"), by_use, more),
    ]


def _recordings(
    dataset: FrameDataset | TokenDataset, recordings: Mapping[str, Recording], estimates: Mapping[str, ClockEstimate]
) -> Table:
    kept, rows = Counter[str](), []
    clocks = {span.meta["take"]: ClockCorrection(*span.meta.get("clock", ())) for span in dataset.spans}
    for span in dataset.spans:
        kept[span.meta["take"]] += span.length
    for take in list(kept)[:_ROWS]:
        one, clock, estimate = recordings[take], clocks[take], estimates.get(take)
        drift = f", {1000 * clock.drift:+.2f} ms a second" if clock.drift else ""
        unknown = " (no clear motion)" if estimate and not estimate.sure else ""
        moved = f"{clock.offset:+.3f} s{drift}" if clock != ClockCorrection() else f"0{unknown}"
        share = f"{max(estimate.shares):.2f}" if estimate else ""
        rows.append((take, one.format, _time(STEP * kept[take]), _time(_seconds(one)), moved, share))
    text = "The share of the unexplained motion that the input explains is known where a clock was estimated."
    text += f" The first {_ROWS} of {len(kept)} are listed." if len(kept) > _ROWS else ""
    return Table("Recordings", ("recording", "format", "kept", "of", "input moved by", "share"), rows, text)


def _seconds(recording: Recording) -> float:
    """Length of a recording, with the time in which its last picture is shown."""
    times_F = recording.times_F
    return float(times_F[-1] - times_F[0]) * len(times_F) / max(1, len(times_F) - 1)


def _coverage(actions_FA: NDArray[np.uint8]) -> dict[str, int]:
    rows = {}
    for slot, (name, size) in enumerate(zip(SLOT_NAMES, SLOT_SIZES, strict=True)):
        counts = np.bincount(actions_FA[:, slot], minlength=size)
        if size == 2:
            rows[name] = int(counts[1])
        else:
            low, high = ("left", "right") if name.endswith("x") else ("down", "up")
            rows[f"{name} {low}"] = int(counts[:REST_BIN].sum())
            rows[f"{name} {high}"] = int(counts[REST_BIN + 1 :].sum())
    return rows


def _situations(dataset: FrameDataset | TokenDataset) -> dict[str, int]:
    """Rows by value of each state column: single values where there are few, else equal ranges."""
    rows: dict[str, int] = {}
    for name in dataset.state_columns:
        column = dataset.column(name)
        known = column[np.isfinite(column)]
        values, counts = np.unique(known, return_counts=True)
        if len(values) <= _SITUATIONS:
            rows |= {f"{name} = {value:g}": int(count) for value, count in zip(values, counts, strict=True)}
            continue
        counts, edges = np.histogram(known, bins=_SITUATIONS)
        ranges = zip(edges[:-1], edges[1:], counts, strict=True)
        rows |= {f"{name} {low:.3g} to {high:.3g}": int(count) for low, high, count in ranges}
    return rows


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.1f} s"


def _counts(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(Counter(names).items()))


def _cell(text: str) -> str:
    """Text that is no markup in Markdown, where HTML is markup too."""
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(escape(text, quote=False).split())


def _strips(dataset: FrameDataset | TokenDataset) -> str:
    if isinstance(dataset, TokenDataset):
        return "<h2>Pictures</h2><p>The dataset has codes, so there are no pictures.</p>"
    length, images = (_TILES - 1) * _APART + 1, []
    starts = np.concatenate([np.arange(s.start, max(s.start + 1, s.rows.stop - length + 1)) for s in dataset.spans])
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(_STRIPS, len(starts))).astype(int))
    for start in starts[chosen].tolist():
        span, tiles = next(span for span in dataset.spans if span.start <= start < span.rows.stop), []
        for row in range(start, min(span.rows.stop, start + _TILES * _APART), _APART):
            frame_HWC, values_A = np.array(dataset.frames_FHWC[row]), dataset.actions_FA[row]
            tiles.append(Tile(frame_HWC=frame_HWC, kind="real", caption=held_inputs(values_A), pads=[(values_A, "")]))
        data = io.BytesIO()
        Image.fromarray(contact_sheet([tiles], tile_width=190, kinds=())).save(data, "JPEG", quality=85)
        at = escape(f"{span.meta['take']}, step {span.meta['first'] + start - span.start}, {span.meta['split']}")
        source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        images.append(f'<figcaption>{at}</figcaption><img src="{source}" alt="{at}">')
    return f"<h2>Pictures, {STEP * _APART:.1f} s apart, with the input from then on</h2>{''.join(images)}"


def _sticks(dataset: FrameDataset | TokenDataset) -> str:
    """Histograms of the positions of both sticks; the darker the more steps, on a scale of logarithms."""
    size, bins, figures = 15, len(BIN_VALUES), []
    for name in ("left_stick", "right_stick"):
        x, y = (dataset.actions_FA[:, SLOT_NAMES.index(f"{name}_{axis}")].astype(int) for axis in "xy")
        counts = np.bincount(y * bins + x, minlength=bins * bins).reshape(bins, bins)
        cells = ""
        for (row, column), count in np.ndenumerate(counts):
            place = f'x="{column * size}" y="{(bins - 1 - row) * size}" width="{size}" height="{size}"'
            tone = f'fill-opacity="{np.log1p(count) / np.log1p(counts.max()):.2f}"'
            cells += f"<rect {place} {tone}><title>{STEP * count:.1f} s</title></rect>"
        svg = f'<svg width="{bins * size}" height="{bins * size}" stroke="#ddd" fill="#06c">{cells}</svg>'
        figures.append(f"<figure>{svg}<figcaption>{name.replace('_', ' ')}, up is +y</figcaption></figure>")
    return f"<h2>Positions of the sticks, darker is more</h2>{''.join(figures)}"


def _curve(take: str, estimate: ClockEstimate) -> str:
    shares, width, height = np.array(estimate.shares).clip(0), 320, 110
    x_L, top = (LAGS - LAGS[0]) / (LAGS[-1] - LAGS[0]) * width, max(0.05, float(shares.max()))
    points = " ".join(f"{x:.1f},{height - share / top * height:.1f}" for x, share in zip(x_L, shares, strict=True))
    at = (estimate.clock.offset - LAGS[0]) / (LAGS[-1] - LAGS[0]) * width
    mark = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}" stroke="#e60"/>' if estimate.sure else ""
    line = f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="2"/>'
    axis = f'<path d="M0 {height}H{width}" stroke="#999"/>'
    text = f"{take}, lags from {LAGS[0]:g} to {LAGS[-1]:g} s, shares up to {top:.2f}: {estimate.sentence()}"
    svg = f'<svg width="{width}" height="{height + 2}">{axis}{mark}{line}</svg>'
    return f'<figure style="max-width:{width}px">{svg}<figcaption>{escape(text)}</figcaption></figure>'
