"""A dream's folder: everything people open is there; dreamed pictures are marked and signed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from playloom.actions.script import parse_script
from playloom.errors import BadInputError
from playloom.media.action_table import read_actions
from playloom.media.clips import read_dream_clip
from playloom.media.contact_sheet import BORDERS, Tile, contact_sheet, held_inputs, title_of, wrap
from playloom.media.images import enlarge, read_picture
from playloom.media.output_folder import DreamFolder, GeneratedClip, OutputStep
from playloom.provenance import Manifest, frames_hash, stamp
from video_toys import read_frames, read_manifest

ACTIONS_TA = parse_script("forward for 2; turn_right=0.4 fire for 3; rest").values_SA


@pytest.fixture
def frames_THWC() -> np.ndarray:
    """Flat frames, so that a mark is whatever is not flat."""
    return np.stack([np.full((36, 60, 3), 20 * step, np.uint8) for step in range(7)])


@pytest.fixture
def dream(frames_THWC) -> dict:
    """A context of 3 frames and 4 dreamed steps, the last two with dreamed actions."""
    manifest = Manifest(model="tiny", weights="ab", seed=3, mode="full", parent=frames_hash(frames_THWC[:3]))
    steps = [OutputStep(frames_THWC[3 + s], ACTIONS_TA[2 + s], s < 2) for s in range(4)]
    return {
        "real_frames_THWC": frames_THWC[:3],
        "real_actions_TA": ACTIONS_TA[:2],
        "steps": steps,
        "manifest": manifest,
    }


def write_dream(folder: Path, **fields) -> DreamFolder:
    clip = GeneratedClip(**fields | {"steps": tuple(fields["steps"])})
    return clip.write_folder(folder)


def pictures_of(shown: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The left picture (height, width) of films or sheets of one row, without bars and controllers."""
    return shown[..., -6 - size[0] : -6, 6 : 6 + size[1], :].astype(int)


def test_everything_people_open_is_there(tmp_path, dream, frames_THWC):
    written = write_dream(tmp_path / "dream", **dream)
    assert written.folder == tmp_path / "dream"
    found = {str(p.relative_to(written.folder)) for p in written.folder.rglob("*") if p.is_file()}
    singles = {f"{kind}/{n:02}.png" for kind in ("raw", "x4") for n in (1, 2, 3, 4)}
    assert found == singles | {
        "dream.gif", "dream.mp4", "actions.csv", "sheet.png", "dream.npz", "manifest.json",
    }  # fmt: skip
    assert {name.rstrip("/") for name, _ in written.files} == {name.partition("/")[0] for name in found}
    assert dict(written.files)["actions.csv"] == "the inputs: 2 given, 2 dreamed"
    table = read_actions(written.folder / "actions.csv", "named")
    assert np.array_equal(table.values_SA, ACTIONS_TA[2:6])
    clip = read_dream_clip(written.folder / "dream.npz")
    assert np.array_equal(clip.frames_THWC, frames_THWC), "the arrays are unmarked"
    assert np.array_equal(clip.actions_TA[:6], ACTIONS_TA[:6])


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_every_file_has_the_mode_that_the_umask_asks_for(tmp_path, dream, mask):
    before = os.umask(mask)
    try:
        folder = write_dream(tmp_path / "dream", **dream).folder
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o666 & ~mask}


def test_what_was_dreamed_is_marked_and_signed_and_what_was_real_is_not(tmp_path, dream, frames_THWC):
    folder = write_dream(tmp_path / "dream", **dream).folder
    for number in (1, 4):
        raw = read_picture(folder / "raw" / f"{number:02}.png")
        assert raw.manifest == dream["manifest"].at_step(number)
        assert np.array_equal(raw.frame_HWC, stamp(frames_THWC[2 + number]))
        large = read_picture(folder / "x4" / f"{number:02}.png")
        assert large.manifest == raw.manifest
        assert np.array_equal(large.frame_HWC, stamp(enlarge(frames_THWC[2 + number], 4)))
    for name, size in (("dream.gif", (36, 60)), ("dream.mp4", (72, 120))):
        assert read_manifest(folder / name) == dream["manifest"]
        shown = pictures_of(read_frames(folder / name), size)
        assert len(shown) == 7
        uneven = np.ptp(shown[..., 1], axis=(1, 2)) > 60
        assert uneven.tolist() == [False] * 3 + [True] * 4, name
    assert read_picture(folder / "sheet.png").manifest == dream["manifest"]
    written = (folder / "manifest.json").read_text()
    assert Manifest.from_json(written) == dream["manifest"] and json.loads(written)["note"] == "generated"


def test_same_dream_same_bytes(tmp_path, dream):
    folders = [write_dream(tmp_path / name, **dream).folder for name in ("a", "b")]
    for path in sorted(folders[0].rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (folders[1] / path.relative_to(folders[0])).read_bytes(), path.name


def test_an_older_dream_is_never_overwritten(tmp_path, dream):
    names = [write_dream(tmp_path / "dream", **dream).folder.name for _ in range(3)]
    assert names == ["dream", "dream-2", "dream-3"]


def test_a_dream_that_fails_leaves_nothing(tmp_path, dream):
    def broken():
        yield dream["steps"][0]
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError):
        write_dream(tmp_path / "dream", **dream | {"steps": broken()})
    odd = [OutputStep(np.zeros((36, 60, 4), np.uint8), ACTIONS_TA[0], True)]
    with pytest.raises(Exception):  # noqa: B017  # our own mistake: any traceback, but no files
        write_dream(tmp_path / "dream", **dream | {"steps": odd})
    with pytest.raises(BadInputError, match="no steps"):
        write_dream(tmp_path / "dream", **dream | {"steps": []})
    assert list(tmp_path.iterdir()) == []


def test_when_only_actions_were_dreamed_the_frames_stay_unmarked(tmp_path, dream, frames_THWC):
    steps = [OutputStep(*step[:2], False) for step in dream["steps"]]
    steps[-1] = OutputStep(None, steps[-1].action_A, False)
    written = write_dream(tmp_path / "dream", **dream | {"steps": steps}, frames_dreamed=False)
    assert not (written.folder / "raw").exists()
    film = read_frames(written.folder / "dream.gif")
    assert len(film) == 6 and np.ptp(pictures_of(film, (36, 60)), axis=(1, 2)).max() == 0
    assert film.shape[2] == 300, "its controllers fit"
    assert dict(written.files)["actions.csv"] == "the inputs: 0 given, 4 dreamed"
    with np.load(written.folder / "dream.npz") as arrays:
        assert arrays["raw_context"].shape[0] == 6 and arrays["dreamt_images"].shape == (0, 3, 36, 60)
        assert arrays["action_given"].tolist() == [True] * 2 + [False] * 4
    assert np.array_equal(read_dream_clip(written.folder / "dream.npz").frames_THWC, frames_THWC[:6])


def test_the_sheet_shows_real_dreamed_and_true_with_their_borders(tmp_path, dream, frames_THWC):
    plain = write_dream(tmp_path / "a", **dream).folder / "sheet.png"
    with_truth = write_dream(tmp_path / "b", **dream, true_frames_SHWC=frames_THWC[3:]).folder / "sheet.png"
    short, long = (read_picture(path).frame_HWC for path in (plain, with_truth))
    for sheet, green in ((short, 3), (long, 7)):
        border = {kind: (sheet == colour).all(axis=-1).sum() for kind, colour in BORDERS.items()}
        tile = 5180  # pixels of one border with its bar, less the letters
        assert border["given"] == 0
        assert round(border["real"] / tile) == green and round(border["dreamed"] / tile) == 4, border


def test_dreamed_tiles_are_marked_and_captions_are_cut():
    frame = np.full((18, 30, 3), 100, np.uint8)
    real, dreamed = (
        contact_sheet([[Tile(frame_HWC=frame, kind=kind, caption="long " * 40)]]) for kind in ("real", "dreamed")
    )
    assert real.shape == dreamed.shape
    assert np.ptp(pictures_of(real, (90, 150))) == 0 and np.ptp(pictures_of(dreamed, (90, 150))) > 60
    with pytest.raises(BadInputError, match="one picture"):
        contact_sheet([])


def test_a_sheet_of_one_column_shows_its_whole_legend():
    """The legend of a narrow sheet was cut off after "dre"."""
    tile = Tile(frame_HWC=np.zeros((18, 30, 3), np.uint8), kind="dreamed")
    for kinds in ({"real", "dreamed"}, {"real", "given", "dreamed"}):
        sheet = contact_sheet([[tile]], title="some words " * 20, kinds=kinds)
        heading, edge = sheet[: -6 - 90 - 20], sheet[:, -4:]
        assert (edge[: len(heading)] == edge[0, 0]).all(), "a word runs over the edge"
        for kind in kinds:
            assert (heading == BORDERS[kind]).all(axis=-1).any()


@pytest.mark.parametrize(("mode", "words"), [("world", "temperature 1.5,  risk weight 3"), ("policy", "temperature 2")])
def test_a_title_names_the_sampling_of_what_is_drawn(mode, words):
    sampling = {"temperature": 1.5, "action_temperature": 2.0, "risk_weight": 3.0}
    title = title_of(Manifest(model="tiny", weights="ab", seed=1, mode=mode, sampling=sampling))
    assert f"{mode} mode,  {words},  seed 1" in title


def test_one_given_picture_leaves_no_empty_cells(tmp_path, dream, frames_THWC):
    one = dream | {"real_frames_THWC": frames_THWC[:1], "real_actions_TA": ACTIONS_TA[:0], "real_kind": "given"}
    written = write_dream(tmp_path / "a", **one)
    assert dict(written.files)["dream.gif"].startswith("1 given frame, then 4 dreamed ones")
    sheet = read_picture(written.folder / "sheet.png").frame_HWC
    count = {kind: (sheet == colour).all(axis=-1).sum() for kind, colour in BORDERS.items()}
    assert count["real"] == 0 < count["given"] and sheet.shape[0] < 180, "five tiles are one row"


def test_the_film_runs_what_followed_beside_the_dream_as_long_as_it_is_known(tmp_path, dream, frames_THWC):
    truth = 255 - frames_THWC[3:5]
    folder = write_dream(tmp_path / "a", **dream, true_frames_SHWC=truth).folder
    film = pictures_of(read_frames(folder / "dream.mp4"), (72, 120))
    assert np.abs(film.mean(axis=(1, 2, 3)) - [0, 20, 40, 195, 175, 0, 0]).max() < 6


def test_the_controllers_show_what_is_pressed(tmp_path, dream):
    """Films of dreams showed no input, and a film of dreamed input showed nothing dreamed."""
    steps = [OutputStep(*step[:2], False) for step in dream["steps"]]
    films = []
    for name, actions in (("a", ACTIONS_TA[2:6]), ("b", np.roll(ACTIONS_TA[2:6], 1, axis=0))):
        own = [step._replace(action_A=action) for step, action in zip(steps, actions, strict=True)]
        folder = write_dream(tmp_path / name, **dream | {"steps": own}, frames_dreamed=False).folder
        films.append(read_frames(folder / "dream.mp4").astype(int))
    changed = np.abs(films[0] - films[1]).max(axis=(1, 2, 3)) > 60
    assert changed.tolist() == [False, False, True, False, False, True], "from the last frame seen on"


def test_paths_stay_out_of_what_is_passed_on(tmp_path, dream):
    request = {"command": "playloom dream --prompt /home/anna/a.png --seed 3"}
    folder = write_dream(tmp_path / "a", **dream, request=request).folder
    assert Manifest.from_json((folder / "manifest.json").read_text()).request == request
    assert [path.name for path in folder.rglob("*.*") if b"anna" in path.read_bytes()] == ["manifest.json"]


def test_rows_and_inputs_in_short():
    tiles = [Tile(frame_HWC=np.zeros((2, 2, 3), np.uint8), kind="real")] * 23
    assert [len(row) for row in wrap(tiles, 10)] == [10, 10, 3]
    held = parse_script("forward turn_left=0.4 RT LB dpad_up A").values_SA[0]
    assert held_inputs(held) == "ly+1 rx-.38 RT A up LB"
    assert held_inputs(ACTIONS_TA[-1]) == "rest"
