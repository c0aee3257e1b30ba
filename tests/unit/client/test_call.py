"""The iterating client against a real server on loopback: whole folders, whatever the endpoint does."""

import base64
import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from call_toys import ACTIONS_SA, Scripted, drops, frame, good, hangs, result, says, stops_halfway
from playloom.actions.codec import decode_values, values_to_rows
from playloom.actions.controller import CONTROLS
from playloom.client import CallEvents, CallJob, run_call, start_from_file, start_from_picture
from playloom.client.endpoint import random_action
from playloom.errors import BadInputError, EndpointError, PictureError
from playloom.media.action_table import read_actions
from playloom.media.images import encode_png, enlarge, read_picture, write_picture
from playloom.provenance import Manifest, stamp
from video_toys import read_frames, read_manifest


@pytest.fixture
def server():
    """Starts scripted servers and stops them afterwards."""
    running = []

    def start(*script) -> Scripted:
        running.append(Scripted(*script))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def start(tmp_path) -> dict:
    path = tmp_path / "me.png"
    Image.fromarray(np.full((360, 600, 3), 90, np.uint8)).save(path)
    return start_from_picture(path)[0]


@pytest.fixture
def call(start, tmp_path):
    """Runs a call against a server: the report; keywords change the job."""

    def run(server: Scripted, events: CallEvents | None = None, sleep=lambda seconds: None, **changes):
        known = dict(start=start, steps=3, endpoint=server.address, out=tmp_path / "call", retries=3)
        return run_call(CallJob(**(known | changes)), events, sleep=sleep)

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_call_leaves_everything(server, call):
    report = call(server(good()))
    assert (report.steps, report.received, report.random_steps) == (3, 3, ())
    found = files_of(report.folder)
    pictures = {f"raw/0{n}.png" for n in (1, 2, 3)} | {f"sr/0{n}_x4.png" for n in (1, 2, 3)}
    made = {"sr/dream_x4.gif", "sr/dream_x4.mp4", "actions.csv", "start.json"}
    assert set(found) == pictures | made | {f"steps/0{n}.json" for n in (1, 2, 3)}
    assert set(report.files) == made - {"start.json"}
    for number in (1, 2, 3):
        assert found[f"raw/0{number}.png"] == base64.b64decode(result(number)["image"]), "kept as it came"
        large = read_picture(report.folder / f"sr/0{number}_x4.png")
        assert np.array_equal(large.frame_HWC, stamp(enlarge(frame(number), 4))), "made here, so marked here"
        assert large.manifest.step == number and "received and enlarged 4x (lanczos)" in large.manifest.note
    with Image.open(report.folder / "sr/dream_x4.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (3, (120, 72), 250, 0)
    assert read_frames(report.folder / "sr/dream_x4.mp4").shape == (3, 72, 120, 3)
    assert read_manifest(report.folder / "sr/dream_x4.mp4").model == "a remote endpoint's"
    assert np.array_equal(read_actions(report.folder / "actions.csv", "named").values_SA, ACTIONS_SA[:3])
    header = found["actions.csv"].decode().splitlines()[0]
    assert header == "step," + ",".join(control.name for control in CONTROLS)


def test_each_reply_moves_the_context_on_and_the_oldest_is_dropped(server, call, start):
    endpoint = server(good())
    call(endpoint, steps=13, upscale="none")
    contexts = [body["input_data"]["context"] for body in endpoint.bodies]
    assert [len(context) for context in contexts] == [*range(1, 11), 10, 10, 10]
    assert contexts[0] == start["input_data"]["context"]
    assert contexts[2] == [*contexts[0], result(1), result(2)], "picture, action and tokens go back as they came"
    assert [entry["tokens"][0] for entry in contexts[-1]] == list(range(3, 13))
    assert {body["input_data"]["num_steps_to_predict"] for body in endpoint.bodies} == {1}


def test_without_tokens_the_endpoint_encodes_anew(server, call):
    endpoint = server(good())
    call(endpoint, with_tokens=False)
    assert [entry["tokens"] for entry in endpoint.bodies[-1]["input_data"]["context"]] == [[], [], []]


def test_a_long_context_stays_long_and_the_rest_of_a_payload_is_kept(server, call, tmp_path):
    entry = {"image": result(1)["image"], "actions": [0.5] * 16}
    payload = {"input_data": {"context": [entry] * 12, "num_steps_to_predict": 4, "top_p": 0.9}, "trace": 1}
    (tmp_path / "payload.json").write_text(json.dumps(payload))
    endpoint = server(good())
    call(endpoint, start=start_from_file(tmp_path / "payload.json"))
    assert [len(body["input_data"]["context"]) for body in endpoint.bodies] == [12, 12, 12]
    assert endpoint.bodies[0]["input_data"]["context"][0] == entry, "sent as it is, floats of any kind included"
    assert all((b["trace"], b["input_data"]["top_p"]) == (1, 0.9) for b in endpoint.bodies)


def test_nothing_enlarged(server, call):
    report = call(server(good()), upscale="none")
    assert report.files == ("dream.gif", "dream.mp4", "actions.csv")
    assert not (report.folder / "sr").exists()
    assert np.array_equal(read_frames(report.folder / "dream.gif")[1][:4], frame(2)[:4])
    assert not np.array_equal(read_frames(report.folder / "dream.gif")[1], frame(2)), "marked"


def test_other_formats_and_sizes_are_kept_as_they_come(server, call, tmp_path):
    Image.fromarray(frame(1, (20, 40))).save(tmp_path / "x.jpg")
    other = base64.b64encode((tmp_path / "x.jpg").read_bytes()).decode()
    report = call(server(good(), good(image=f"data:image/jpeg;base64,{other}"), good()))
    assert (report.folder / "raw/02.jpg").read_bytes() == (tmp_path / "x.jpg").read_bytes()
    assert read_frames(report.folder / "sr/dream_x4.mp4").shape == (3, 72, 120, 3), "brought to the first one's size"


def test_a_manifest_that_comes_with_a_picture_is_passed_on(server, call, tmp_path):
    manifest = Manifest(model="tiny", weights="ab", seed=9, mode="full", step=1)
    write_picture(tmp_path / "x.png", stamp(frame(3)), manifest)
    image = base64.b64encode((tmp_path / "x.png").read_bytes()).decode()
    folder = call(server(good(image=image))).folder
    kept = read_picture(folder / "sr/02_x4.png").manifest
    assert (kept.model, kept.seed, kept.step) == ("tiny", 9, 2)
    assert kept.note == "generated; received and enlarged 4x (lanczos)"


def test_replies_without_an_action_get_a_random_one_seeded_and_said(server, call, tmp_path):
    notes: list[str] = []
    mute = good(actions=None, actions_output=[1, 2, 3])
    report = call(server(good(), mute), CallEvents(note=notes.append), seed=5)
    assert report.random_steps == (2, 3)
    assert "random action" in notes[1] and "seed 5" in notes[1]
    values_TA = read_actions(report.folder / "actions.csv", "named").values_SA
    assert np.array_equal(values_TA[1:], [random_action(5, 2), random_action(5, 3)])
    again = call(server(good(), mute), seed=5)
    other = call(server(good(), mute), seed=6)
    tables = [(folder / "actions.csv").read_bytes() for folder in (report.folder, again.folder, other.folder)]
    assert tables[0] == tables[1] != tables[2]


def test_random_actions_are_of_the_known_kind():
    states = decode_values(np.stack([random_action(1, step) for step in range(600)]))
    columns = {control.name: states[:, index] for index, control in enumerate(CONTROLS)}
    assert 0.3 < columns["trigger_RT"].mean() < 0.5
    assert (sum(columns[f"dpad_{side}"] for side in ("up", "down", "left", "right")) == 1).all()
    for name in ("left_stick_x", "left_stick_y", "right_stick_x", "right_stick_y"):
        assert len(set(columns[name].tolist())) == 11 and abs(columns[name].mean()) < 0.1
    pressed = {name for name, column in columns.items() if column.any()}
    assert not pressed & {"button_A", "button_B", "button_X", "button_Y", "trigger_LT", "skill_1", "skill_2"}


def test_floats_in_the_named_schema_are_understood_and_said(server, call):
    notes: list[str] = []
    named = values_to_rows(ACTIONS_SA[2], "named").tolist()
    endpoint = server(good(actions=None, actions_output=None, controller={"state": named}))
    folder = call(endpoint, CallEvents(note=notes.append)).folder
    assert len(notes) == 1 and "named schema" in notes[0]
    assert np.array_equal(read_actions(folder / "actions.csv", "named").values_SA, ACTIONS_SA[[2, 2, 2]])
    assert endpoint.bodies[1]["input_data"]["context"][1]["actions"] == ACTIONS_SA[2].tolist(), "sent back in bins"


@pytest.mark.parametrize(
    "trouble",
    [says(503), says(429), says(500, b"oops"), drops, stops_halfway, says(408)],
    ids=["503", "429", "500", "dropped", "halfway", "408"],
)
def test_what_passes_is_tried_again(server, call, trouble):
    notes: list[str] = []
    slept: list[float] = []
    endpoint = server(good(), trouble, trouble, good())
    report = call(endpoint, CallEvents(note=notes.append), sleep=slept.append, upscale="none")
    assert report.steps == 3 and len(endpoint.bodies) == 5
    assert endpoint.bodies[1] == endpoint.bodies[2] == endpoint.bodies[3]
    assert sum("trying again in" in note for note in notes) == 2
    assert 0.5 <= slept[0] <= 1.5 and 1 <= slept[1] <= 2, "doubled, with jitter"


def test_an_endpoint_that_hangs_is_left_after_the_timeout_and_asked_again(server, call):
    notes: list[str] = []
    report = call(server(hangs, good()), CallEvents(note=notes.append), timeout=0.3, steps=1)
    assert report.steps == 1 and "gave no answer within 0.3 s; trying again" in notes[0]


def test_what_retry_after_asks_is_never_undercut(server, call):
    slept: list[float] = []
    busy = says(503, {"error": "the queue is full"}, Retry_After="7")
    call(server(busy, busy, good()), sleep=slept.append, steps=1)
    assert len(slept) == 2 and all(7.5 <= wait <= 9 for wait in slept)
    with pytest.raises(EndpointError, match="9000"):
        call(server(says(429, {"error": "the queue is full"}, Retry_After="9000")))


def test_the_delay_is_between_requests(server, call):
    slept: list[float] = []
    call(server(good()), sleep=slept.append, delay=0.25)
    assert slept == [0.25, 0.25]


def test_a_failure_leaves_all_earlier_steps_complete_and_resume_goes_on(server, call, tmp_path):
    slept: list[float] = []
    with pytest.raises(EndpointError) as caught:
        call(server(good(), good(), says(500, {"error": "out of memory"})), sleep=slept.append, steps=4)
    folder = tmp_path / "call"
    words = ("step 3 of 4", "500", "out of memory", "4 attempts", f"--resume --out {folder}")
    assert all(word in str(caught.value) for word in words) and len(slept) == 3
    assert read_frames(folder / "sr/dream_x4.gif").shape[0] == read_frames(folder / "sr/dream_x4.mp4").shape[0] == 2
    assert len(read_actions(folder / "actions.csv", "named").values_SA) == 2
    endpoint = server(good())
    report = call(endpoint, start=None, resume=True, steps=4)
    assert (report.steps, report.received, len(endpoint.bodies)) == (4, 2, 2)
    straight = call(server(good()), steps=4, out=tmp_path / "straight")
    assert files_of(report.folder) == files_of(straight.folder), "as if nothing had happened"


def test_a_first_step_that_fails_leaves_no_folder(server, call, tmp_path):
    with pytest.raises(EndpointError, match=r"401 .*who are you"):
        call(server(says(401, {"error": "who are you"})))
    assert not (tmp_path / "call").exists()


def test_an_interrupted_call_is_complete_too(server, call, tmp_path):
    def stop(number: int, of: int, words: str) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(server(good()), CallEvents(step=stop))
    assert read_frames(tmp_path / "call/sr/dream_x4.gif").shape[0] == 2
    assert call(server(good()), resume=True).received == 1


def test_resume_after_a_hard_kill_takes_up_what_is_whole(server, call, tmp_path):
    straight = files_of(call(server(good())).folder)
    folder = tmp_path / "call"
    (folder / "steps/03.json").write_text('{"ending": ".png", "act')  # a disk that lost the end of a file
    (folder / "sr/01_x4.png").unlink()
    (folder / "sr/dream_x4.gif").unlink()
    report = call(server(good()), resume=True)
    assert report.received == 1 and files_of(folder) == straight
    (folder / "actions.csv").unlink()  # killed between a step and its row
    assert call(server(says(500)), resume=True).received == 0, "nothing left to ask for"
    assert files_of(folder) == straight


def test_resume_minds_what_it_goes_on_from(server, call, tmp_path, start):
    call(server(good()))
    other = {"input_data": {**start["input_data"], "temperature": 0.1}}
    with pytest.raises(BadInputError, match="another start"):
        call(server(good()), resume=True, start=other)
    with pytest.raises(BadInputError, match="resume"):
        call(server(good()), resume=True, start=None, out=tmp_path / "nowhere")
    assert call(server(good()), resume=True, out=tmp_path / "new").received == 3
    (tmp_path / "call/start.json").write_text("{")
    with pytest.raises(BadInputError, match="is damaged"):
        call(server(good()), resume=True, start=None)


def test_an_older_call_is_never_overwritten(server, call):
    assert [call(server(good()), steps=1).folder.name for _ in range(3)] == ["call", "call-2", "call-3"]


NOT_A_PICTURE = base64.b64encode(b"GIF89a" + bytes(40)).decode()
CUT_PNG = base64.b64encode(encode_png(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))[:900]).decode()
BOMB = base64.b64encode(encode_png(np.zeros((1500, 1500, 3), np.uint8))).decode()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (says(200, b"<html>hello"), "not JSON"),
        (says(200, b"[" * 100_000), "not JSON"),
        (says(200, b"\xff\xfe\x00"), "not JSON"),
        (says(204), "not JSON"),
        (says(200, {"results": []}), "no results"),
        (says(200, {"error": "no"}), "no picture"),
        (good(image="not base64!"), "not base64"),
        (good(image=NOT_A_PICTURE), "picture"),
        (good(image=CUT_PNG), "cut short"),
        (good(image=BOMB), "1500 x 1500"),
        (says(200, bytes(65 * 2**20)), "64 MiB"),
        (
            says(307, Location="https://elsewhere.invalid/score?code=1"),
            "https://elsewhere.invalid/score,",
        ),
        (says(404), "404 .*check the address"),
        (says(422, {"detail": "context\x1b[31m is empty"}), r"422 .*empty"),
        (says(200, b"no gzip", Content_Encoding="gzip"), "request"),
    ],
)
def test_nonsense_is_named_and_not_asked_for_twice(server, call, tmp_path, behaviour, reason):
    endpoint = server(good(), behaviour)
    with pytest.raises(EndpointError, match=f"step 2 of 3 failed: .*{reason}"):
        call(endpoint, upscale="none")
    assert len(endpoint.bodies) == 2
    assert read_frames(tmp_path / "call/dream.gif").shape[0] == 1


def test_a_resumed_call_enlarges_again_when_the_method_changes(call, server, monkeypatch, tmp_path):
    call(server(good()), steps=1)
    large = tmp_path / "call/sr/01_x4.png"
    monkeypatch.setattr("playloom.client.RealESRGAN", lambda: lambda frame_HWC: 255 - enlarge(frame_HWC))
    before, report = read_picture(large), call(server(good()), steps=1, resume=True, upscale="realesrgan")
    assert report.received == 0
    after = read_picture(large)
    assert "(lanczos)" in before.manifest.note and "(realesrgan)" in after.manifest.note
    assert (before.frame_HWC != after.frame_HWC).any()


def test_nobody_there(call, server):
    gone = server(good())
    gone.stop()
    with pytest.raises(EndpointError, match="2 attempts"):
        call(gone, retries=1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ("[]", "damaged"),
        ('{"input_data": {"context": []}}', "holds no context"),
        ('{"input_data": {"context": [{"actions": [0]}]}}', "the image of step 1"),
        ('{"input_data": {"context": [{"image": "?"}]}}', "the image of step 1 is not base64"),
        ('{"input_data": {"context": [{"image": "aGVsbG8="}]}}', "is not a picture that can be read"),
    ],
)
def test_payloads_that_cannot_be_sent(tmp_path, text, reason):
    path = tmp_path / "payload.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=reason):
        start_from_file(path)


@pytest.mark.parametrize(("schema", "fits"), [("named", False), ("sticks", False), ("binned", True), ("auto", True)])
def test_a_payload_in_another_schema_than_that_of_later_steps(tmp_path, schema, fits):
    path = tmp_path / "payload.json"
    image = base64.b64encode(encode_png(np.zeros((18, 30, 3), np.uint8))).decode()
    path.write_text(json.dumps({"input_data": {"schema": schema, "context": [{"image": image}]}}))
    with contextlib.nullcontext() if fits else pytest.raises(BadInputError, match="expected binned"):
        assert start_from_file(path)["input_data"]["schema"] == schema


def test_starts_that_are_not_there(tmp_path):
    with pytest.raises(BadInputError, match="payload"):
        start_from_file(tmp_path / "none.json")
    with pytest.raises(PictureError, match="no picture"):
        start_from_picture(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, "steps"),
        ({"delay": -1.0}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": 1e300}, "delay"),
        ({"seed": -1}, "seed"),
        ({"schema": "bins"}, "schema"),
        ({"upscale": "lancsoz"}, "did you mean lanczos"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": 1e300}, "timeout"),
        ({"start": None}, "give --payload or --image, or --resume"),
        ({"endpoint": "ftp://x/score"}, "not an http or https address"),
        ({"endpoint": "http://me:word@127.0.0.1/score"}, "holds a name or password"),
        ({"endpoint": "http://[::1/score"}, "not an http or https address"),
    ],
)
def test_jobs_that_cannot_be_done(server, call, changes, reason):
    with pytest.raises(BadInputError, match=reason):
        call(server(good()), **changes)
