"""Whole dreaming jobs on real files: what is written, what is said, and what bad input gets."""

import hashlib
import json
import shlex
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import loud_model, tiny_config
from playloom.actions.codec import REST_VALUES
from playloom.cli.app import main
from playloom.data.prompts import find_prompt, load_prompt, load_prompt_file
from playloom.errors import ActionError, BadInputError
from playloom.inference.generate import (
    DreamJob,
    GenerationConfig,
    generate_clip,
    open_engine,
    picture_warning,
    run_dream,
)
from playloom.inference.generate_batch import BatchJob, dream_clips
from playloom.media.action_table import read_actions, write_actions
from playloom.media.clips import Clip, read_dream_clip, write_clip
from playloom.media.contact_sheet import BORDERS
from playloom.media.images import read_picture
from playloom.media.output_folder import seen_tiles
from playloom.models.checkpoint import save_model
from playloom.provenance import Manifest
from video_toys import read_frames, read_manifest


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(folder, loud_model(tiny_config()), dtype=None)
    return str(folder)


def clip_of(steps: int, seed: int = 0) -> Clip:
    source = np.random.default_rng(seed)
    frames = source.integers(0, 256, (steps, 16, 24, 3), dtype=np.uint8)
    actions = np.tile(REST_VALUES, (steps, 1))
    actions[:, 14] = source.integers(0, 11, steps)
    return Clip(frames, actions)


@pytest.fixture
def recording(tmp_path) -> Path:
    path = tmp_path / "clip.npz"
    write_clip(path, clip_of(12))
    return path


def run_cli(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["playloom", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        main()
    out, err = capsys.readouterr()
    return int(exit_info.value.code or 0), out, err


def test_the_command_writes_everything_it_names(model, recording, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dream"
    code, said, _ = run_cli(
        monkeypatch,
        capsys,
        *("dream", "--model", model, "--prompt", str(recording), "--context", "4", "--steps", "3"),
        *("--actions", "right_stick_x=1 for 10", "--out", str(out), "--decode-order", "1"),
    )
    assert code == 0 and "4 steps seen, then 3 steps of pictures dreamed" in said and str(out) in said
    for name in ("raw/01.png", "raw/03.png", "x4/03.png", "dream.gif", "dream.mp4", "sheet.png", "dream.npz"):
        assert (out / name).is_file(), name
    assert (read_actions(out / "actions.csv", "named").values_SA[:, 14] == 10).all()
    assert len(read_frames(out / "dream.mp4")) == 7
    manifest = read_picture(out / "raw" / "01.png").manifest
    assert manifest is not None and (manifest.mode, manifest.step, manifest.order) == ("world", 1, "row delay 1")


def test_the_command_says_what_was_seen_and_what_was_cut(model, recording, tmp_path, monkeypatch, capsys):
    """Piped, it began with an empty line, called dreamed steps real, and cut a longer context without a word."""
    most = tiny_config().transformer.context_steps
    where = ("dream", "--model", model, "--prompt", str(recording), "--steps", "1", "--out", str(tmp_path / "a"))
    code, said, complaint = run_cli(monkeypatch, capsys, *where, "--context", "11")
    lines = said.splitlines()
    assert code == 0 and complaint == ""
    assert lines[0] == f"note: the model sees at most {most} steps, so a context of 11 is cut to that"
    assert any(line.startswith(f"{most} steps seen, then 1 step of pictures dreamed: ") for line in lines)
    _, said, _ = run_cli(monkeypatch, capsys, *where, "--context", "3")
    assert "cut" not in said


@contextmanager
def ctrl_c_at(*functions):
    """SIGINT at the first call of each of these functions, one after the other."""
    waiting = list(functions)

    def press(frame, event, argument) -> None:
        if event == "call" and waiting and frame.f_code.co_name == waiting[0]:
            waiting.pop(0)
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
    sys.setprofile(press)
    try:
        yield
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGINT, before)
    assert not waiting


def test_ctrl_c_before_the_first_step_leaves_nothing(model, recording, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dream"
    where = ("dream", "--model", model, "--prompt", str(recording), "--steps", "5000", "--out", str(out))
    with ctrl_c_at("load_prompt"):
        code, said, complaint = run_cli(monkeypatch, capsys, *where)
    assert (code, said, complaint) == (130, "", "stopped; nothing was written\n") and not list(tmp_path.glob("dream*"))


def test_ctrl_c_keeps_what_was_dreamed(model, recording, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dream"
    where = ("dream", "--model", model, "--prompt", str(recording), "--steps", "5000", "--actions", "forward")
    with ctrl_c_at("_frames"):
        code, said, complaint = run_cli(monkeypatch, capsys, *where, "--out", str(out))
    count = len(list((out / "raw").glob("*.png")))
    assert code == 130 and complaint == "" and 1 <= count < 5000
    assert f"note: stopped after {count} of 5000 steps; these are kept" in said.splitlines()
    assert len(read_actions(out / "actions.csv", "named").values_SA) == count


def test_a_second_ctrl_c_leaves_nothing(model, recording, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dream"
    where = ("dream", "--model", model, "--prompt", str(recording), "--steps", "5000", "--out", str(out))
    with ctrl_c_at("_frames", "write_folder"):
        code, said, complaint = run_cli(monkeypatch, capsys, *where)
    assert (code, said, complaint) == (130, "", "stopped; nothing was written\n") and not list(tmp_path.glob("dream*"))


def test_equal_jobs_give_equal_bytes_and_the_time_is_put_in_when_asked_for(model, recording, tmp_path, monkeypatch):
    """The time was in every manifest, so no two files of the same dream were equal."""
    clock = iter(("2030", "2031", "2032"))
    monkeypatch.setattr("playloom.inference.generate.created_at", lambda: next(clock))
    where = {"model": model, "prompt": str(recording), "context": 3, "steps": 2}
    folders = [run_dream(DreamJob(**where, out=tmp_path / name)).written.folder for name in ("first", "second")]
    names = [{path.relative_to(folder) for path in folder.rglob("*.*")} for folder in folders]
    assert names[0] == names[1] and Path("manifest.json") in names[0]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    told = run_dream(DreamJob(**where, out=tmp_path / "third", timestamp=True)).written.folder
    assert json.loads((told / "manifest.json").read_text())["created"] == "2030"


def test_a_dream_goes_on_from_a_dream(model, recording, tmp_path):
    first = run_dream(DreamJob(model=model, prompt=str(recording), context=3, steps=2, out=tmp_path / "a"))
    again = run_dream(DreamJob(model=model, prompt=str(first.written.folder), steps=1, context=4, out=tmp_path / "b"))
    assert len(again.clip.real_frames_THWC) == 4
    before = read_dream_clip(tmp_path / "a" / "dream.npz").frames_THWC[-4:]
    after = read_dream_clip(tmp_path / "b" / "dream.npz").frames_THWC[:4]
    assert (before == after).all(), "the mark entered the context"
    codes = [read_dream_clip(tmp_path / name / "dream.npz").codes_TN for name in ("a", "b")]
    assert (codes[0][-4:] == codes[1][:4]).all(), "frames were encoded again"


def test_what_was_dreamed_stays_known_as_dreamed(model, recording, tmp_path):
    """Going on from a dream showed its frames unmarked and called them real, and their origin was lost."""
    where = {"model": model, "context": 4, "steps": 2}
    run_dream(DreamJob(**{**where, "context": 3}, prompt=str(recording), out=tmp_path / "a"))
    second = run_dream(DreamJob(**where, prompt=str(tmp_path / "a"), out=tmp_path / "b"))
    assert dict(second.written.files)["dream.gif"].startswith("4 frames seen (2 dreamed before), then 2 dreamed ones")
    third = load_prompt(tmp_path / "b", context=5, frame_size=(16, 24))
    assert third.dreamed_T is not None and third.dreamed_T.tolist() == [False, True, True, True, True]
    tiles = seen_tiles(third.frames_THWC, third.actions_TA, third.dreamed_T, third.kind)
    assert [tile.pads[0][1] for tile in tiles] == ["not known", *["earlier"] * 4], "the model's inputs were 'recorded'"
    shown, first = read_frames(tmp_path / "b" / "dream.gif"), read_frames(tmp_path / "a" / "dream.gif")
    orange = np.array(BORDERS["dreamed"])
    colours = [(np.abs(film[:, -6] - orange).max(axis=-1) < 40).any(axis=1) for film in (first, shown)]
    assert colours[0].tolist() == [False, False, False, True, True]
    assert colours[1].tolist() == [False, False, True, True, True, True], "an earlier dream's frame lost its mark"
    picture = load_prompt(tmp_path / "a" / "raw" / "01.png", context=1, frame_size=(16, 24))
    assert picture.dreamed_T is not None and picture.dreamed_T.tolist() == [True]


def test_the_manifest_makes_the_folder_again(model, recording, tmp_path, monkeypatch, capsys):
    """Prompt, actions and context were not in it."""
    table = tmp_path / "with space.csv"
    write_actions(table, clip_of(4).actions_TA)
    where = {"model": model, "context": 3, "seed": 5, "timestamp": False, "start_step": 6, "temperature": 0.7}
    first = run_dream(DreamJob(**where, prompt=str(recording), actions=str(table), out=tmp_path / "a")).written.folder
    manifest = Manifest.from_json((first / "manifest.json").read_text())
    request = manifest.request
    assert (manifest.prompt, manifest.prompt_kind, request["start_step"], request["steps"]) == (
        "clip.npz",
        "real",
        6,
        4,
    )
    assert request["actions_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    words = shlex.split(request["command"])[1:]
    assert run_cli(monkeypatch, capsys, *words, "--out", str(tmp_path / "b"))[0] == 0
    for path in first.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(first)).read_bytes(), path.name


def test_a_script_may_be_longer_than_the_name_of_a_file(model, recording):
    """All was dreamed, and then lost: the script was looked for as a file, for its hash."""
    job = DreamJob(model=model, prompt=str(recording), context=3, steps=1, actions="forward + fire; jump; " * 20)
    clip = generate_clip(job.load_engine(), job)
    assert clip.request["actions"] == job.actions and "actions_sha256" not in clip.request


def test_the_recorded_continuation_is_shown_only_with_the_recorded_actions(model, recording, tmp_path):
    where = {"model": model, "prompt": str(recording), "context": 3, "steps": 4}
    said = [
        dict(run_dream(DreamJob(**where, actions=actions, out=tmp_path / "d")).written.files)["dream.gif"]
        for actions in (None, "forward")
    ]
    assert ["with the true ones" in words for words in said] == [True, False]


def test_a_picture_stays_given_when_a_dream_goes_on_from_it(model, tmp_path):
    Image.fromarray(clip_of(1).frames_THWC[0]).save(tmp_path / "mine.png")
    first = run_dream(DreamJob(model=model, prompt=str(tmp_path / "mine.png"), steps=2, out=tmp_path / "a"))
    assert dict(first.written.files)["dream.gif"].startswith("1 given frame")
    assert load_prompt(tmp_path / "a", context=3, frame_size=(16, 24)).kind == "given"


def test_a_picture_of_another_world_is_warned_of(tmp_path):
    bundled = open_engine()
    play = load_prompt_file(find_prompt("plaza-explorer")).frames_THWC
    assert all(picture_warning(bundled, play[step : step + 1]) is None for step in (0, 30, 59))
    noise = np.random.default_rng(0).integers(0, 256, (1, 180, 300, 3), dtype=np.uint8)
    for other in (noise, np.full_like(noise, 90)):
        warning = picture_warning(bundled, other)
        assert warning is not None and "keeps 0%" in warning
    Image.fromarray(noise[0]).save(tmp_path / "noise.png")
    _, data = GenerationConfig(prompt=str(tmp_path / "noise.png")).read_prompt(bundled, horizon=0, render=None)
    assert any("does not look like the game" in note for note in data.notes)


def test_a_dream_without_a_prompt_says_where_it_begins(tmp_path):
    _, data = GenerationConfig().read_prompt(open_engine(), horizon=0, render=None)
    assert any("no prompt was given" in note and data.name in note for note in data.notes)


def test_a_dream_shorter_than_the_context_is_gone_on_from(model, tmp_path):
    """One picture, two steps dreamed, and on from there: it asked for a shorter context instead."""
    Image.fromarray(clip_of(1).frames_THWC[0]).save(tmp_path / "a.png")
    run_dream(DreamJob(model=model, prompt=str(tmp_path / "a.png"), steps=2, out=tmp_path / "a"))
    report = run_dream(DreamJob(model=model, prompt=str(tmp_path / "a"), steps=1, out=tmp_path / "b"))
    assert len(report.clip.real_frames_THWC) == 3
    assert any("the context is 3 steps long" in note for note in report.clip.notes)
    second = run_dream(DreamJob(model=model, prompt=str(tmp_path / "a"), steps=1, start_step=1, out=tmp_path / "c"))
    assert len(second.clip.real_frames_THWC) == 2


def test_full_mode_forces_the_first_inputs_and_dreams_the_rest(model, recording, tmp_path):
    """A script was filled up to the last step with rest, so nothing was left to dream."""
    config = {"model": model, "prompt": str(recording), "context": 3, "mode": "full"}
    engine = GenerationConfig(model=model).load_engine()
    for actions, steps, given, dreamed in (
        ("fire for 2", 5, 2, 3),
        ("fire for 2; jump", 5, 3, 2),
        ("fire for 9", 5, 5, 0),
        ("fire for 2", None, 2, 8),
    ):
        clip = generate_clip(engine, DreamJob(**config, steps=steps, actions=actions))
        assert [step.action_given for step in clip.steps] == [True] * given + [False] * dreamed
    written = dict(clip.write_folder(tmp_path / "a").files)
    assert written["actions.csv"] == "the inputs: 2 given, 8 dreamed"


@pytest.mark.parametrize("mode", ["policy", "full"])
def test_policy_and_full_modes_dream_inputs(model, recording, mode):
    job = DreamJob(model=model, prompt=str(recording), context=3, steps=2, mode=mode)
    clip = generate_clip(job.load_engine(), job)
    assert clip.frames_dreamed == (mode == "full") and len(clip.actions) == 2


def test_one_picture_is_enough(model, tmp_path):
    Image.fromarray(np.full((64, 64, 4), 90, np.uint8), "RGBA").save(tmp_path / "one.png")
    report = run_dream(DreamJob(model=model, prompt=str(tmp_path / "one.png"), steps=2, out=tmp_path / "d"))
    said = " ".join(report.clip.notes)
    assert len(report.clip.real_frames_THWC) == 1 and "crop" in said and "transparency" in said and "--actions" in said


def test_batch_dreaming_skips_what_it_cannot_use_and_keeps_names(model, tmp_path):
    folder = tmp_path / "clips"
    for number, steps in (("a/1", 8), ("a/2", 3), ("b/3", 8)):
        (folder / number).parent.mkdir(parents=True, exist_ok=True)
        write_clip(folder / f"{number}.npz", clip_of(steps))
    (folder / "a" / "broken.npz").write_bytes(b"PK not really")
    summary = dream_clips(BatchJob(folder=folder, out=tmp_path / "o", model=model, context=4, steps=3, batch=2))
    names = [str(p.relative_to(tmp_path / "o")) for p in summary.written]
    assert names == ["a/1.npz", "b/3.npz"]
    assert len(summary.skipped) == 2 and any("expected 7" in s for s in summary.skipped)
    assert all(sentence.count(str(folder)) == 1 for sentence in summary.skipped)
    with np.load(tmp_path / "o" / "b" / "3.npz") as found:
        assert found["raw_context"].shape == (4, 3, 16, 24) and found["dreamt_images"].shape == (3, 3, 16, 24)
        assert found["all_actions"].shape == (7, 16)
        assert found["encoded_decoded_ground_truth_images"].shape == (7, 3, 16, 24)
        assert (found["all_actions"][:, 14] == clip_of(8).actions_TA[:7, 14]).all()
    video = tmp_path / "o" / "a" / "1.mp4"
    manifest = read_manifest(video)
    assert len(read_frames(video)) == 7 and manifest is not None and manifest.prompt == "1.npz"


def test_a_place_for_clips_that_cannot_be_written_is_found_out_first(model, tmp_path):
    """Every clip was dreamed, and then skipped."""
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.npz", clip_of(8))
    (tmp_path / "file").write_text("taken")
    with pytest.raises(BadInputError, match="cannot write"):
        dream_clips(BatchJob(folder=tmp_path / "in", out=tmp_path / "file", model=model, context=4, steps=3))


@pytest.mark.parametrize("option", ["--episodes", "--every"])
def test_view_shows_at_least_one(option, tmp_path, monkeypatch, capsys):
    code, _, err = run_cli(monkeypatch, capsys, "view", str(tmp_path), option, "0")
    assert code == 2 and option in err


def test_a_clips_dream_does_not_depend_on_the_batch(model, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        write_clip(folder / f"{number}.npz", clip_of(6, number))
    found = []
    for batch in (1, 3):
        job = BatchJob(
            folder=folder,
            out=tmp_path / str(batch),
            model=model,
            context=3,
            steps=2,
            batch=batch,
            protocol="comprehensive",
        )
        found.append([read_dream_clip(p) for p in dream_clips(job).written])
    for alone, together in zip(*found, strict=True):
        assert (alone.frames_THWC == together.frames_THWC).all() and (alone.actions_TA == together.actions_TA).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompt", "nowhere.png"), "there is no"),
        (("--model", "tniy"), "neither a folder"),
        (("--actions", "right_stick_x=2"), "right_stick_x"),
        (("--actions", "jmup"), "did you mean"),
        (("--actions", "forgotten.csv"), "there is no file forgotten.csv"),
        (("--actions", "/"), "there is no file /"),
        (("--prompt", ""), "the prompt is empty"),
        (("--prompt", "/"), "there is no picture in /"),
        (("--steps", "-1"), "--steps"),
        (("--steps", "999999999999"), "dream fewer steps"),
        (("--mode", "dreamy"), "'world', 'policy', 'full'"),
        (("--temperature", "-1"), "--temperature"),
        (("--decode-order", "99"), "choose 1 to 6"),
        (("--decode-order", "0"), "choose 1 to 6"),
        (("--context", "0"), "--context"),
        (("--steps", "0"), "--steps"),
        (("--schema", "binary"), "schema"),
        (("--device", "tpu"), "device"),
        (("--resize", "squeeze"), "resize"),
        (("--start-step", "500"), "12 steps"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments, words, model, recording, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "dream"
    table = tmp_path / "table.csv"
    table.write_text("step\n1\n")
    base = ["dream", "--out", str(out)]
    for name, value in (("--model", model), ("--prompt", str(recording)), ("--steps", "2"), ("--context", "3")):
        base += [] if name in arguments else [name, value]
    if "--schema" in arguments:
        base += ["--actions", str(table)]
    code, said, err = run_cli(monkeypatch, capsys, *base, *arguments)
    assert code == 2 and words in err and said == ""
    assert len(err.splitlines()) == 1
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_found_out_before_the_dream(model, recording, tmp_path):
    (tmp_path / "file").write_text("taken")
    job = DreamJob(model=model, prompt=str(recording), context=3, steps=2, out=tmp_path / "file" / "dream")
    with pytest.raises(BadInputError, match="cannot write"):
        run_dream(job, progress=lambda done, of: pytest.fail("it dreamed first"))


def test_an_unknown_schema_is_told_even_without_a_table():
    with pytest.raises(ActionError, match="binned"):
        DreamJob(schema="bined")  # type: ignore[arg-type]


def test_policy_goes_as_far_as_the_pictures_go(model, tmp_path):
    """One picture is answered once; asking for the default of ten steps was refused."""
    Image.fromarray(clip_of(1).frames_THWC[0]).save(tmp_path / "a.png")
    report = run_dream(
        DreamJob(model=model, prompt=str(tmp_path / "a.png"), mode="policy", actions="fire", out=tmp_path / "out")
    )
    assert "policy mode dreams the input, so --actions is not used" in report.clip.notes
    assert len(read_actions(report.written.folder / "actions.csv", "named").values_SA) == 1


def test_a_table_without_its_columns_names_them(model, recording, tmp_path, monkeypatch, capsys):
    table = tmp_path / "table.csv"
    table.write_text("step,left_stick_x\n1,0\n")
    arguments = ("dream", "--model", model, "--prompt", str(recording), "--context", "3", "--actions", str(table))
    code, _, err = run_cli(monkeypatch, capsys, *arguments)
    assert code == 2 and "left_stick_y" in err


def test_every_command_has_help_and_is_in_the_docs(monkeypatch, capsys):
    docs = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__).parents[3] / "docs").glob("*.md"))
    code, said, _ = run_cli(monkeypatch, capsys, "--help")
    assert code == 0
    for command in ("dream", "record", "view", "train", "evaluate", "models"):
        assert command in said and f"playloom {command}" in docs, command


def test_bundled_model_matches_its_card():
    """Whatever is bundled loads, is small enough for the package, and carries its figures."""
    from playloom.models.checkpoint import load_model
    from playloom.models.folder import bundled_models, model_folder

    total = 0
    for name in bundled_models():
        folder = model_folder(name)
        total += sum(path.stat().st_size for path in folder.iterdir())
        assert load_model(folder).card.get("evaluation"), f"{name} has no figures"
        json.loads((folder / "model.json").read_text())
    assert 0 < total <= 24 * 2**20


def test_the_folder_form_is_an_option_of_the_same_command(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "one.npz", clip_of(6))
    arguments = ("dream", "--model", model, "--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "o"))
    code, said, _ = run_cli(monkeypatch, capsys, *arguments, "--context", "3", "--steps", "2")
    assert code == 0 and "1 clip dreamed, 0 skipped" in said and (tmp_path / "o" / "one.npz").is_file()
