"""Whatever a dream may begin with arrives as frames and actions in step, cut where asked."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.data.prompts import (
    PromptData,
    find_prompt,
    list_prompts,
    load_prompt,
    load_prompt_file,
    prompt_folder,
    save_prompt_file,
)
from playloom.data.recording import STATE_COLUMNS, Episode, EpisodeMeta, save_episode
from playloom.errors import ActionError, BadInputError, PictureError, RecordingError
from playloom.media.action_table import write_actions
from playloom.media.clips import Clip, write_clip
from playloom.media.images import write_picture
from playloom.media.output_folder import GeneratedClip, OutputStep
from playloom.media.video import write_mp4
from playloom.provenance import Manifest

STEPS, SIZE = 12, (18, 30)


@pytest.fixture
def clip() -> Clip:
    """Frame t is filled with 10 t, and action t holds t in its bins: what belongs together can be seen."""
    frames = np.stack([np.full((*SIZE, 3), 10 * step, np.uint8) for step in range(STEPS)])
    actions = np.tile(REST_VALUES, (STEPS, 1))
    actions[:, 14] = np.arange(STEPS) % 11
    actions[:, 0] = np.arange(STEPS) // 11
    return Clip(frames, actions)


def numbers(prompt: PromptData) -> dict[str, list[int]]:
    """Which step of `clip` each row of a prompt is."""
    frames = [(prompt.frames_THWC, "seen"), (prompt.true_next_frames_SHWC, "next")]
    actions = [(prompt.actions_TA, "done"), (prompt.true_next_actions_SA, "then")]
    return {name: [int(frame[0, 0, 0]) // 10 for frame in array] for array, name in frames} | {
        name: [int(action[14]) + 11 * int(action[0]) for action in array] for array, name in actions
    }


def save_pictures(folder: Path, clip: Clip, names: list[str]) -> None:
    for name, frame_HWC in zip(names, clip.frames_THWC, strict=False):
        write_picture(folder / name, frame_HWC)


def episode_of(clip: Clip) -> Episode:
    meta = EpisodeMeta(
        game="arena",
        variant="zones",
        mode="ffa",
        style="rusher",
        seed=3,
        split="test",
        steps=STEPS,
        frame_hash="0",
    )
    return Episode(meta, clip.actions_TA, np.zeros((STEPS, len(STATE_COLUMNS)), np.float32))


EXPECTED_AT_3 = {"seen": [2, 3], "done": [2], "next": [4, 5, 6], "then": [3, 4, 5]}


def test_the_published_data_set(tmp_path, clip):
    write_clip(tmp_path / "a.npz", clip)
    prompt = load_prompt(tmp_path / "a.npz", context=2, frame_size=SIZE, start_step=3, horizon=3)
    assert numbers(prompt) == EXPECTED_AT_3 and prompt.notes == ()
    assert prompt.frames_THWC.dtype == prompt.actions_TA.dtype == np.uint8
    first = load_prompt(str(tmp_path / "a.npz"), context=5, frame_size=SIZE)
    assert numbers(first) == {
        "seen": [0, 1, 2, 3, 4], "done": [0, 1, 2, 3], "next": [5, 6, 7, 8, 9, 10, 11],
        "then": [4, 5, 6, 7, 8, 9, 10, 11],
    }  # fmt: skip
    last = load_prompt(tmp_path / "a.npz", context=1, frame_size=SIZE, start_step=11, horizon=9)
    assert numbers(last) == {"seen": [11], "done": [], "next": [], "then": [11]}
    assert last.actions_TA.shape == (0, 16) and last.true_next_frames_SHWC.shape == (0, *SIZE, 3)


def test_a_recording_is_rendered_no_further_than_needed(tmp_path, clip):
    path = save_episode(tmp_path, episode_of(clip))
    rendered: list[int] = []

    def render(episode):
        assert np.array_equal(episode.actions_TA, clip.actions_TA)
        for step, frame_HWC in enumerate(clip.frames_THWC):
            rendered.append(step)
            yield frame_HWC

    for spec in (path, path.with_suffix(".json"), path.with_suffix("")):
        rendered.clear()
        prompt = load_prompt(spec, context=2, frame_size=SIZE, start_step=3, horizon=3, render=render)
        assert numbers(prompt) == EXPECTED_AT_3 and rendered == list(range(7))
    default = load_prompt(path, context=4, frame_size=SIZE, horizon=0, render=render)
    assert numbers(default) == {"seen": [0, 1, 2, 3], "done": [0, 1, 2], "next": [], "then": []}
    with pytest.raises(BadInputError, match="without pictures"):
        load_prompt(path, context=2, frame_size=SIZE)
    with pytest.raises(RecordingError, match="2 of 7"):
        load_prompt(
            path,
            context=2,
            frame_size=SIZE,
            start_step=3,
            horizon=3,
            render=lambda episode: iter(clip.frames_THWC[:2]),
        )


def test_a_folder_of_pictures_in_natural_order_with_its_actions(tmp_path, clip):
    save_pictures(tmp_path, clip, [f"Frame {n}.png" for n in range(1, STEPS + 1)])
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture")
    for schema in ("named", "binned"):
        write_actions(tmp_path / "actions.csv", clip.actions_TA, schema)
        prompt = load_prompt(tmp_path, context=2, frame_size=SIZE, schema=schema, start_step=3, horizon=3)
        assert numbers(prompt) == EXPECTED_AT_3 and prompt.notes == ()
    on = load_prompt(tmp_path, context=3, frame_size=SIZE, schema="auto")
    assert numbers(on) == {"seen": [9, 10, 11], "done": [9, 10], "next": [], "then": [11]}
    assert "binned" in on.notes[0]
    write_actions(tmp_path / "actions.csv", clip.actions_TA[:10])
    with pytest.raises(ActionError, match="at least 11"):
        load_prompt(tmp_path, context=2, frame_size=SIZE)


def test_pictures_without_actions_and_fewer_than_the_context(tmp_path, clip):
    save_pictures(tmp_path, clip, ["a.png", "b.png", "c.png"])
    prompt = load_prompt(tmp_path, context=10, frame_size=SIZE)
    assert prompt.frames_THWC.shape == (3, *SIZE, 3) and prompt.true_next_actions_SA.shape == (0, 16)
    assert np.array_equal(prompt.actions_TA, np.tile(REST_VALUES, (2, 1)))
    assert len(prompt.notes) == 2 and "actions.csv" in prompt.notes[0] and "3 steps long" in prompt.notes[1]
    single = load_prompt(tmp_path / "b.png", context=10, frame_size=SIZE)
    assert numbers(single) == {"seen": [1], "done": [], "next": [], "then": []}
    assert len(single.notes) == 1 and "1 step long" in single.notes[0]
    with pytest.raises(RecordingError, match="0 to 2"):
        load_prompt(tmp_path, context=1, frame_size=SIZE, start_step=3)


def test_what_was_done_to_pictures_is_said_once_for_all_of_them(tmp_path):
    for name in ("1.png", "2.png", "3.png"):
        Image.new("RGBA", (64, 48), (255, 255, 255, 128)).save(tmp_path / name)
    prompt = load_prompt(tmp_path, context=3, frame_size=SIZE)
    assert prompt.frames_THWC.shape == (3, *SIZE, 3) and abs(int(prompt.frames_THWC[0, 0, 0, 0]) - 128) <= 1
    changed, without, cropped = prompt.notes
    assert changed.startswith("1.png and 2 more: ") and "transparency" in changed and "actions.csv" in without
    assert cropped.startswith("1.png and 2 more: centre-cropped") and "--resize" in cropped
    boxed = load_prompt(tmp_path, context=3, frame_size=SIZE, resize="letterbox")
    assert "with black bars around 24 x 18" in boxed.notes[-1] and "--resize" not in boxed.notes[-1]


def test_a_dream_is_gone_on_from_without_its_marks(tmp_path, clip):
    manifest = Manifest(model="tiny", weights="ab", seed=1, mode="world")
    steps = [OutputStep(clip.frames_THWC[s + 1], clip.actions_TA[s], True) for s in range(4, 11)]
    dream = GeneratedClip(
        real_frames_THWC=clip.frames_THWC[:5],
        real_actions_TA=clip.actions_TA[:4],
        steps=tuple(steps),
        manifest=manifest,
    )
    folder = dream.save(tmp_path / "dream")
    for spec in (folder, folder / "dream.npz"):
        prompt = load_prompt(spec, context=3, frame_size=SIZE)
        assert numbers(prompt) == {"seen": [9, 10, 11], "done": [9, 10], "next": [], "then": []}
        assert np.ptp(prompt.frames_THWC[-1]) == 0 and "is a dream" in prompt.notes[0]
    marked = load_prompt(folder / "raw", context=3, frame_size=SIZE)
    assert any("watermark" in note and "dream.npz" in note for note in marked.notes)


def test_prompts_of_a_model_are_kept_exactly_and_found_by_name(tmp_path, clip):
    folder = tmp_path / "prompts"
    assert prompt_folder(tmp_path) == prompt_folder(None) == find_prompt("plaza-explorer").parent
    path = save_prompt_file(folder / "corner", clip.frames_THWC, clip.actions_TA, {"seed": 7, "step": 120})
    save_prompt_file(folder / "alley.npz", clip.frames_THWC, clip.actions_TA, {})
    assert path == folder / "corner.npz" and list_prompts(folder) == ["alley", "corner"]
    assert prompt_folder(tmp_path) == folder
    moment = load_prompt_file(find_prompt("corner", folder))
    assert np.array_equal(moment.frames_THWC, clip.frames_THWC)
    assert np.array_equal(moment.actions_TA, clip.actions_TA)
    with pytest.raises(RecordingError, match="corner"):
        find_prompt("cornr", folder)
    where = {"context": 2, "frame_size": SIZE, "model": tmp_path}
    for spec in ("corner", path, path.with_suffix("")):
        assert numbers(load_prompt(spec, start_step=3, horizon=3, **where)) == EXPECTED_AT_3
    assert load_prompt("plaza-explorer", **where).name == "plaza-explorer", "then the bundled ones"
    for spec in ("bundled:corner", "cornr"):
        with pytest.raises(RecordingError, match=r"no bundled prompt|did you mean corner"):
            load_prompt(spec, **where)
    assert json.loads((folder / "corner.json").read_text()) == {"seed": 7, "step": 120}


def test_an_episode_of_a_frame_dataset(tmp_path, clip):
    writer = FrameDataset.create(tmp_path, 2 * STEPS, height=SIZE[0], width=SIZE[1], state_columns=())
    for split, frames in (("train", clip.frames_THWC[::-1]), ("validation", clip.frames_THWC)):
        writer.append_episode(frames, clip.actions_TA, np.zeros((STEPS, 0), np.float32), {"split": split})
    writer.finish()
    where = {"context": 2, "frame_size": SIZE, "start_step": 3, "horizon": 3}
    for spec in (tmp_path, f"{tmp_path}/1"):
        assert numbers(load_prompt(spec, **where)) == EXPECTED_AT_3
    assert numbers(load_prompt(tmp_path / "0", **where))["seen"] == [9, 8]
    with pytest.raises(RecordingError, match=r"episode 2 .*expected 0 to 1"):
        load_prompt(tmp_path / "2", **where)


def test_the_first_episode_that_is_long_enough_is_the_prompt(tmp_path, clip):
    """An import is cut where the window lost focus, so its first clip may have two steps."""
    writer = FrameDataset.create(tmp_path, 2 + STEPS, height=SIZE[0], width=SIZE[1], state_columns=())
    for steps in (2, STEPS):
        states_TS, meta = np.zeros((steps, 0), np.float32), {"split": "validation"}
        writer.append_episode(clip.frames_THWC[:steps], clip.actions_TA[:steps], states_TS, meta)
    writer.finish()
    assert len(load_prompt(tmp_path, context=4, frame_size=SIZE).frames_THWC) == 4
    with pytest.raises(RecordingError, match="too short"):
        load_prompt(tmp_path / "0", context=4, frame_size=SIZE)


def test_a_video_shorter_than_the_context_is_a_shorter_context(tmp_path):
    write_mp4(tmp_path / "short.mp4", np.zeros((3, 16, 32, 3), np.uint8))
    prompt = load_prompt(tmp_path / "short.mp4", context=10, frame_size=(16, 32))
    assert (len(prompt.frames_THWC), prompt.start_step) == (3, 2)
    assert "3 steps long, not 10" in " ".join(prompt.notes)


def test_a_video_gives_ten_pictures_a_second_and_the_input_of_its_log(tmp_path):
    video = tmp_path / "play.mp4"
    write_mp4(video, (np.full((16, 32, 3), 8 * index, np.uint8) for index in range(30)), frames_per_second=20)
    bare = load_prompt(video, context=4, frame_size=(16, 32))
    assert np.abs(bare.frames_THWC.mean(axis=(1, 2, 3)) - 16 * np.arange(4)).max() < 3
    assert (bare.actions_TA == REST_VALUES).all() and "no log" in bare.notes[0] and bare.kind == "given"
    video.with_suffix(".csv").write_text("time,key,down\n0.0,space,0\n0.2,space,1\n0.3,space,0\n", encoding="utf-8")
    logged = load_prompt(video, context=4, frame_size=(16, 32), start_step=5, horizon=2)
    assert np.abs(logged.frames_THWC.mean(axis=(1, 2, 3)) - 16 * np.arange(2, 6)).max() < 3
    pressed = (logged.actions_TA != REST_VALUES).any(axis=1)
    assert pressed.tolist() == [True, False, False] and not logged.notes
    assert len(logged.true_next_frames_SHWC) == len(logged.true_next_actions_SA) == 2


def test_every_bundled_moment_can_be_dreamed_on_from():
    for name in list_prompts():
        prompt = load_prompt(name, context=10, frame_size=(180, 300))
        assert prompt.frames_THWC.shape == (10, 180, 300, 3) and prompt.notes == ()
        assert len(prompt.true_next_frames_SHWC) > 0 and find_prompt(name).stat().st_size < 1_500_000


def test_a_file_wins_over_a_bundled_prompt_of_its_name(tmp_path, clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = {"context": 2, "frame_size": SIZE}
    assert load_prompt("plaza-explorer", **where).name == "plaza-explorer"
    write_clip(tmp_path / "plaza-explorer", clip)
    mine, bundled = load_prompt("plaza-explorer", **where), load_prompt("bundled:plaza-explorer", **where)
    assert np.array_equal(mine.frames_THWC, clip.frames_THWC[:2]) and bundled.name == "plaza-explorer"
    assert not np.array_equal(mine.frames_THWC, bundled.frames_THWC)


def test_shorter_than_asked_says_how_many_steps_there_are(tmp_path, clip):
    write_clip(tmp_path / "a.npz", Clip(clip.frames_THWC[:4], clip.actions_TA[:4]))
    with pytest.raises(RecordingError, match="--context 4"):
        load_prompt(tmp_path / "a.npz", context=10, frame_size=SIZE)
    for at in (1, 4):
        with pytest.raises(RecordingError, match=f"has 4 steps; .* can be 2 to 3, got {at}"):
            load_prompt(tmp_path / "a.npz", context=3, frame_size=SIZE, start_step=at)
    for wrong in ({"context": 0}, {"context": 1, "horizon": -1}):
        with pytest.raises(BadInputError, match="at least"):
            load_prompt(tmp_path / "a.npz", frame_size=SIZE, **wrong)


def test_what_is_nothing_we_know_is_said(tmp_path, clip):
    for missing in (tmp_path / "missing", "forward for 2s; " * 20):  # the second is too long for the name of a file
        with pytest.raises(RecordingError, match="give a picture"):
            load_prompt(missing, context=1, frame_size=SIZE)
    with pytest.raises(RecordingError, match="no bundled prompt"):
        load_prompt("bundled:no such place", context=1, frame_size=SIZE)
    np.savez(tmp_path / "other.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(RecordingError, match="a, b"):
        load_prompt(tmp_path / "other.npz", context=1, frame_size=SIZE)
    for wrong, says in ((np.full((STEPS, 16), "a"), "numbers"), (clip.actions_TA + 9, "trigger_LT is 9")):
        np.savez(tmp_path / "wrong.npz", frames=clip.frames_THWC, actions=wrong)
        with pytest.raises(BadInputError, match=rf"wrong\.npz: .*{says}"):
            load_prompt(tmp_path / "wrong.npz", context=1, frame_size=SIZE)
    write_clip(tmp_path / "whole.npz", clip)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:150])
    with pytest.raises(RecordingError, match=r"cut\.npz"):
        load_prompt(tmp_path / "cut.npz", context=1, frame_size=SIZE)
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(PictureError, match=r"text\.txt"):
        load_prompt(tmp_path / "text.txt", context=1, frame_size=SIZE)
    with pytest.raises(PictureError, match="PNG"):
        (tmp_path / "empty").mkdir()
        load_prompt(tmp_path / "empty", context=1, frame_size=SIZE)
    save_episode(tmp_path / "recordings", episode_of(clip))
    with pytest.raises(PictureError, match="recordings"):
        load_prompt(tmp_path / "recordings", context=1, frame_size=SIZE)
