"""Stories over HTTP: branches, edits, exports, events and access."""

import gc
import io
import json
import math
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from playloom.data.prompts import list_prompts
from playloom.errors import StorageError
from playloom.inference.session import Prompt
from playloom.media.images import read_picture
from playloom.provenance import stamp
from playloom.server.schemas import read_actions
from playloom.server.stories.store import StoryDir
from serving_toys import (
    FORWARD,
    REST,
    b64,
    client,
    error_of,
    finished,
    picture,
    pixels_of,
    served,
    stories_folder,
    whole,
)

TURN = [0.0, 0.0, 1.0] + [0.0] * 13


@pytest.fixture(scope="module")
def web():
    with client(max_steps=20, max_sessions=4) as found:
        yield found


def begin(web, **asked):
    response = web.post("/v1/stories", json=asked)
    assert response.status_code == 201, response.text
    return response.json()


def branch(web, story, **order):
    response = web.post(f"/v1/stories/{story}/branches", json={"frames": 3, "seed": 5, **order})
    assert response.status_code == 202, response.text
    return response.json()


def made_by(story, number):
    return [node for node in story["nodes"] if node["branch"] == number]


def frames_of(web, story, ids):
    """Read frames from disk."""
    directory = web.app.state.server.stories._open[story].directory
    return [directory.read_frame(number) for number in ids]


def overlay(size=(16, 24)):
    pixels = np.zeros((*size, 4), np.uint8)
    pixels[2:6, 3:9] = (255, 0, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return b64(buffer.getvalue())


# Start


def test_a_story_from_a_prompt(web):
    story = begin(web, name="  what if ", prompt=list_prompts()[1])
    assert story["name"] == "what if"
    assert story["size"] == [16, 24]
    assert [node["id"] for node in story["nodes"]] == [0, 1, 2, 3]
    assert [node["parent"] for node in story["nodes"]] == [None, 0, 1, 2]
    assert {node["origin"] for node in story["nodes"]} == {"given"}
    assert story["nodes"][0]["action"] is None
    assert len(story["nodes"][1]["action"]) == 16
    assert whole(web, story["id"]) == story
    items = web.get("/v1/stories").json()["stories"]
    (item,) = [item for item in items if item["id"] == story["id"]]
    assert (item["name"], item["frames"], item["error"]) == ("what if", 4, None)
    assert web.get(item["picture"]).headers["content-type"] == "image/webp"


def test_a_story_from_images(web):
    story = begin(web, images=[b64(picture(i)) for i in range(3)], context_actions=[FORWARD, REST], schema="binned")
    assert [node["action"] for node in story["nodes"]] == [None, FORWARD, REST]
    real = read_picture(web.get(f"/v1/stories/{story['id']}/nodes/2.png").content)
    assert real.manifest is None
    assert real.frame_HWC.shape == (16, 24, 3)


def test_a_story_from_an_http_session(web):
    token = web.post("/v1/sessions", json={"seed": 4}).json()["token"]
    for action in (TURN, None):
        step = web.post(f"/v1/sessions/{token}/step", json={} if action is None else {"action": action}).json()
    story = begin(web, session=token)
    assert [node["origin"] for node in story["nodes"]] == ["given", "given", "dreamed", "dreamed"]
    assert [node["action_source"] for node in story["nodes"]] == [None, None, "player", "model"]
    (last,) = frames_of(web, story["id"], [3])
    assert last.codes_N.tolist() == step["tokens"]
    shown = read_picture(web.get(f"/v1/stories/{story['id']}/nodes/3.png").content)
    assert (shown.manifest.seed, shown.manifest.step) == (4, 2)
    web.delete(f"/v1/sessions/{token}")
    assert "no such session" in error_of(web.post("/v1/stories", json={"session": token}))
    for other in ({"prompt": list_prompts()[0]}, {"context_actions": [FORWARD]}):
        assert "one of them" in error_of(web.post("/v1/stories", json={"session": token, **other}))


# Branches


def test_branches_equal_the_engine_s_output(web):
    story = begin(web)["id"]
    told = branch(web, story, **{"from": 3}, count=3, frames=4, actions=[TURN, TURN], seed=11)
    assert [b["seed"] for b in told["branches"]] == [11, 12, 13]
    assert {b["state"] for b in told["branches"]} <= {"waiting", "dreaming"}
    found = finished(web, story)
    service = web.app.state.server.service
    turn = read_actions([TURN], "named", "action")[0]
    prompt = service.named_prompt(list_prompts()[0])[0]
    for made in found["branches"]:
        assert (made["state"], made["frames_done"], made["error"]) == ("done", 4, None)
        nodes = made_by(found, made["id"])
        assert [node["parent"] for node in nodes] == [3, *(node["id"] for node in nodes[:-1])]
        assert (made["first"], made["last"]) == (nodes[0]["id"], nodes[-1]["id"])
        session = service.engine.open(prompt, sampling=service.sampling(), seed=made["seed"])
        for node, frame in zip(nodes, frames_of(web, story, [n["id"] for n in nodes]), strict=True):
            assert node["action"] == turn.tolist()
            assert (node["origin"], node["action_source"]) == ("dreamed", "player")
            assert frame.codes_N.tolist() == session.step(turn).codes_N.tolist()
        session.close()


def test_branches_of_one_request_share_batches(web):
    before = dict(web.app.state.server.service.scheduler.stats.batches)
    story = begin(web)["id"]
    branch(web, story, **{"from": 3}, count=4, frames=5)
    finished(web, story)
    after = web.app.state.server.service.scheduler.stats.batches
    assert sum(after[size] - before.get(size, 0) for size in (2, 3, 4)) >= 3


def test_a_branch_of_a_branch_starts_from_codes_and_limits_its_context(web):
    story = begin(web)["id"]
    branch(web, story, **{"from": 3}, script="forward for 2; turn_left")
    first = finished(web, story)["branches"][0]
    branch(web, story, **{"from": first["last"]}, context=2, action=TURN)
    found = finished(web, story)
    second = found["branches"][1]
    assert second["context"] == 2
    path = frames_of(web, story, [first["last"] - 1, first["last"]])
    service = web.app.state.server.service
    turn = read_actions([TURN], "named", "action")[0]
    actions = [node["action"] for node in found["nodes"] if node["id"] == first["last"]]
    prompt = Prompt(
        frames_THWC=np.zeros((2, 16, 24, 3), np.uint8),  # not looked at: the codes are there
        actions_TA=np.array(actions, np.uint8),
        codes_TN=np.stack([frame.codes_N for frame in path]),
    )
    session = service.engine.open(prompt, sampling=service.sampling(), seed=5)
    for frame in frames_of(web, story, [node["id"] for node in made_by(found, 1)]):
        assert frame.codes_N.tolist() == session.step(turn).codes_N.tolist()
    session.close()


def test_the_model_acts_after_the_forced_actions(web):
    story = begin(web)["id"]
    branch(web, story, **{"from": 3}, controlled_by="model", actions=[TURN])
    branch(web, story, **{"from": 3}, controlled_by="model")
    branch(web, story, **{"from": 3})
    found = finished(web, story)
    assert [node["action_source"] for node in made_by(found, 0)] == ["player", "model", "model"]
    assert [node["action_source"] for node in made_by(found, 1)] == ["model"] * 3
    assert [node["action"] for node in made_by(found, 2)] == [REST] * 3
    shown = [web.get(f"/v1/stories/{story}/nodes/{made_by(found, b)[2]['id']}.png").content for b in (1, 2)]
    manifests = [read_picture(png).manifest for png in shown]
    assert [(m.mode, m.step, m.seed) for m in manifests] == [("full", 3, 5), ("world", 3, 5)]


def test_invalid_branch_requests(web):
    story = begin(web)["id"]
    asked = f"/v1/stories/{story}/branches"
    for order, said in (
        ({"from": 9}, "no frame 9"),
        ({"from": 3, "frames": 21}, "at most 20"),
        ({"from": 3, "count": 9}, "count"),
        ({"from": 3, "context": 5}, "at most 4"),
        ({"from": 3, "script": "fly for 2"}, "unknown input"),
        ({"from": 3, "script": "rest", "action": TURN}, "script and action"),
        ({"from": 3, "action": TURN, "controlled_by": "model"}, "controlled_by"),
        ({"from": 3, "actions": [[1, 2]]}, "action 0 has 2 numbers"),
        ({"from": 3, "temperature": -1}, "temperature"),
        ({"from": 3, "count": 2, "seed": 2**63 - 1}, "seed is too large"),
        ({}, "from"),
    ):
        response = web.post(asked, json=order)
        assert response.status_code == 400
        assert said in error_of(response)
    assert "only the first 2" in branch(web, story, **{"from": 3}, script="forward for 9", frames=2)["notes"][0]
    finished(web, story)


def test_a_cancelled_branch_keeps_its_frames():
    with client(max_steps=100, max_branches=1) as web:
        story = begin(web)["id"]
        branch(web, story, **{"from": 3}, count=2, frames=100)
        while not whole(web, story)["branches"][0]["frames_done"]:
            time.sleep(0.01)
        assert "still to be dreamed there" in error_of(web.delete(f"/v1/stories/{story}/nodes/4"))
        assert whole(web, story)["branches"][1]["state"] == "waiting"
        for number in (1, 0):
            assert web.delete(f"/v1/stories/{story}/branches/{number}").status_code == 204
        found = finished(web, story)
        assert [b["state"] for b in found["branches"]] == ["cancelled", "cancelled"]
        time.sleep(0.3)
        again = whole(web, story)
        assert again["nodes"] == found["nodes"]
        assert 0 < again["branches"][0]["frames_done"] < 100
        assert again["branches"][1]["frames_done"] == 0
        assert web.delete(f"/v1/stories/{story}/branches/0").status_code == 204
        assert web.delete(f"/v1/stories/{story}/branches/7").status_code == 404
        server = web.app.state.server
        branch(web, story, **{"from": 3}, count=2, frames=100)
        assert web.delete(f"/v1/stories/{story}").status_code == 204
        wait_for(lambda: server.branches.dreaming == server.service.scheduler.stats.sessions == 0)


def test_a_prompt_that_no_branch_waits_for_may_fail(caplog):
    with client(max_branches=1, max_steps=500) as web:
        whole, damaged = begin(web)["id"], begin(web)["id"]
        server = web.app.state.server
        (server.service.settings.stories / damaged / "0.npz").unlink()
        running = branch(web, whole, **{"from": 0, "frames": 500})["branches"][0]["id"]
        waiting = branch(web, damaged, **{"from": 0})["branches"][0]["id"]
        for story, number in ((damaged, waiting), (whole, running)):
            assert web.delete(f"/v1/stories/{story}/branches/{number}").status_code == 204
        wait_for(lambda: not server.branches._tasks)
        gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_branch_fails_when_the_log_cannot_be_written(web):
    story = begin(web)["id"]
    directory = web.app.state.server.stories._open[story].directory
    branch(web, story, **{"from": 3}, frames=20)
    (directory.folder / "log.jsonl").rename(directory.folder / "kept")
    (directory.folder / "log.jsonl").mkdir()
    found = finished(web, story)["branches"][0]
    assert found["state"] == "failed"
    assert "cannot write" in found["error"]
    (directory.folder / "log.jsonl").rmdir()
    (directory.folder / "kept").rename(directory.folder / "log.jsonl")
    branch(web, story, **{"from": 3})
    assert finished(web, story)["branches"][1]["state"] == "done"
    assert directory.load().nodes == web.app.state.server.stories._open[story].tree.nodes


def test_a_watermarked_image_sent_back_is_replaced_by_its_frame(web):
    story = begin(web)["id"]
    branch(web, story, **{"from": 3}, frames=1)
    finished(web, story)
    (frame,) = frames_of(web, story, [4])
    png = web.get(f"/v1/stories/{story}/nodes/4.png").content
    again = begin(web, images=[b64(png)])["id"]
    (back,) = frames_of(web, again, [0])
    assert back.codes_N.tolist() == frame.codes_N.tolist()
    assert (back.frame_HWC == frame.frame_HWC).all()  # an edit begins at the pixels: no mark is in them either
    assert back.manifest == frame.manifest
    assert web.get(f"/v1/stories/{again}/nodes/0.png").content == png
    token = web.post("/v1/sessions", json={"images": [b64(png)], "seed": 1}).json()["token"]
    web.post(f"/v1/sessions/{token}/step", json={})
    third = begin(web, session=token)
    web.delete(f"/v1/sessions/{token}")
    assert [node["origin"] for node in third["nodes"]] == ["given", "dreamed"]
    assert (frames_of(web, third["id"], [0])[0].frame_HWC == frame.frame_HWC).all()


def end_the_time_of_requests(web):
    def end():
        for scope in web.app.state.server.service.limiter._scopes:
            scope.deadline = -math.inf

    web.portal.call(end)


def test_a_step_whose_request_timed_out_is_in_the_context():
    with client() as web, ThreadPoolExecutor(1) as pool:
        server, go_on = web.app.state.server, threading.Event()
        token = web.post("/v1/sessions", json={"seed": 1}).json()["token"]
        kept = server.sessions.find(token).history.frames
        server.service.io_pool.submit(go_on.wait)  # pictures are written late: the step is dreamed, its answer is not
        answer = pool.submit(web.post, f"/v1/sessions/{token}/step", json={})
        wait_for(lambda: kept()[-1].manifest is not None)
        end_the_time_of_requests(web)
        assert answer.result().status_code == 504
        go_on.set()
        web.post(f"/v1/sessions/{token}/step", json={}).raise_for_status()
        assert [frame.manifest.step for frame in kept()[-2:]] == [1, 2]


def test_a_story_is_created_after_its_request_timed_out(monkeypatch):
    with client() as web, ThreadPoolExecutor(1) as pool:
        stories, writing, go_on = web.app.state.server.stories, threading.Event(), threading.Event()
        create = stories._store.create

        def held_up(*given):
            writing.set()
            go_on.wait()
            return create(*given)

        begin(web)
        monkeypatch.setattr(stories._store, "create", held_up)
        answer = pool.submit(web.post, "/v1/stories", json={})
        assert writing.wait(60)
        end_the_time_of_requests(web)
        assert answer.result().status_code == 504
        go_on.set()
        listed = {item["id"] for item in web.get("/v1/stories").json()["stories"]}
        assert len(listed) == 2
        assert listed == {path.name for path in stories._store.folder.iterdir()}


def test_storage_errors_do_not_reveal_paths(web, tmp_path, caplog):
    story = begin(web)["id"]
    known = web.app.state.server.stories._open[story]
    kept, missing = known.directory, tmp_path / "nowhere"
    missing.write_text("a file")

    class Stuck(StoryDir):
        """A directory whose frames cannot be written."""

        def write_frame(self, node, frame):
            StoryDir(missing).write_frame(node, frame)

    known.directory = Stuck(kept.folder)
    edited = web.post(f"/v1/stories/{story}/nodes/3/edit", json={"overlay": overlay()})
    assert edited.status_code == 507 and str(tmp_path) not in edited.text
    branch(web, story, **{"from": 3})
    (made,) = finished(web, story)["branches"]
    assert made["state"] == "failed" and str(tmp_path) not in made["error"]
    known.directory = kept
    assert str(tmp_path) in caplog.text, "the log says where"


def test_a_locked_folder_is_refused_without_its_path(tmp_path):
    with client(stories=tmp_path / "stories") as first:
        begin(first)
        with client(stories=tmp_path / "stories") as second:
            response = second.get("/v1/stories")
    assert response.status_code == 507 and str(tmp_path) not in response.text


# Edits


def test_an_edit_is_a_sibling_and_can_be_branched_from(web):
    story = begin(web)["id"]
    branch(web, story, **{"from": 3}, action=TURN, frames=4)
    first = made_by(finished(web, story), 0)
    response = web.post(
        f"/v1/stories/{story}/nodes/{first[0]['id']}/edit",
        json={"overlay": overlay(), "copies": 2, "toward": first[3]["id"]},
    )
    assert response.status_code == 201
    nodes = response.json()["nodes"]
    assert [node["edit_of"] for node in nodes] == [node["id"] for node in first[:3]]
    assert [node["parent"] for node in nodes] == [3, nodes[0]["id"], nodes[1]["id"]]
    assert [node["action"] for node in nodes] == [node["action"] for node in first[:3]]
    assert {(node["origin"], node["action_source"]) for node in nodes} == {("edited", "player")}
    before, after = frames_of(web, story, [first[1]["id"], nodes[1]["id"]])
    changed = (before.frame_HWC != after.frame_HWC).any(-1)
    assert (after.frame_HWC[2:6, 3:9] == (255, 0, 0)).all()
    assert not changed[6:].any()  # the mark's corner included: it never enters a context
    service = web.app.state.server.service
    alone = Prompt(frames_THWC=after.frame_HWC[None], actions_TA=np.zeros((0, 16), np.uint8))
    assert after.codes_N.tolist() == service.engine.codes(alone)[0].tolist()
    shown = read_picture(web.get(f"/v1/stories/{story}/nodes/{nodes[1]['id']}.png").content)
    assert (shown.frame_HWC == stamp(after.frame_HWC)).all()
    assert (shown.manifest.step, shown.manifest.note) == (2, "generated, then edited by hand")
    branch(web, story, **{"from": nodes[2]["id"]})
    found = finished(web, story)
    assert found["branches"][1]["state"] == "done"
    assert made_by(found, 1)[0]["parent"] == nodes[2]["id"]


def test_an_edit_of_a_real_root_is_another_root_without_watermark(web):
    story = begin(web)["id"]
    (node,) = web.post(f"/v1/stories/{story}/nodes/0/edit", json={"overlay": overlay((36, 60))}).json()["nodes"]
    assert (node["parent"], node["action"], node["edit_of"]) == (None, None, 0)
    shown = read_picture(web.get(f"/v1/stories/{story}/nodes/{node['id']}.png").content)
    assert shown.manifest is None
    branch(web, story, **{"from": node["id"]})
    assert finished(web, story)["branches"][0]["state"] == "done"


def flat(size):
    buffer = io.BytesIO()
    Image.new("L", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def test_invalid_edit_requests(web):
    story = begin(web)["id"]
    asked = f"/v1/stories/{story}/nodes/2/edit"
    for order, said in (
        ({"overlay": overlay(), "copies": 2}, "too few"),
        ({"overlay": overlay(), "copies": 10}, "copies"),
        ({"overlay": overlay(), "copies": 1, "toward": 1}, "no descendant"),
        ({"overlay": "?"}, "not base64"),
        ({"overlay": b64(b"no picture")}, "neither a PNG nor"),
        ({"overlay": b64(picture(kind="JPEG"))}, "cannot be read"),
        ({"overlay": b64(flat(5000)[:300])}, "at most"),
        ({}, "overlay"),
    ):
        response = web.post(asked, json=order)
        assert response.status_code == 400
        assert said in error_of(response)
    assert web.post(f"/v1/stories/{story}/nodes/77/edit", json={"overlay": overlay()}).status_code == 404
    assert len(whole(web, story)["nodes"]) == 4


def test_an_unknown_field_names_the_nearest(web):
    story = begin(web)["id"]
    for method, path, order, known in (
        ("POST", "", {"promt": "x"}, "prompt"),
        ("PATCH", f"/{story}", {"nmae": "x"}, "name"),
        ("POST", f"/{story}/branches", {"from": 0, "temprature": 1}, "temperature"),
        ("POST", f"/{story}/branches", {"form": 0}, "from"),
        ("POST", f"/{story}/nodes/0/edit", {"overly": "x"}, "overlay"),
        ("PATCH", f"/{story}/nodes/0", {"stared": True}, "starred"),
    ):
        response = web.request(method, f"/v1/stories{path}", json=order)
        assert response.status_code == 400 and f"did you mean {known}?" in error_of(response)


# Notes, stars and exports


def test_stars_notes_names_and_removal(web):
    story = begin(web)["id"]
    branch(web, story, **{"from": 3})
    finished(web, story)
    assert web.patch(f"/v1/stories/{story}/nodes/4", json={"starred": True, "note": "<b>é</b>"}).json()["starred"]
    assert web.patch(f"/v1/stories/{story}/nodes/4", json={"note": ""}).json()["starred"]
    (item,) = [item for item in web.get("/v1/stories").json()["stories"] if item["id"] == story]
    assert item["picture"].endswith("/nodes/4.webp")
    assert web.patch(f"/v1/stories/{story}", json={"name": " other "}).json()["name"] == "other"
    assert web.patch(f"/v1/stories/{story}", json={"name": "  "}).status_code == 400
    assert web.delete(f"/v1/stories/{story}/nodes/5").json() == {"nodes": [5, 6], "branches": []}
    assert whole(web, story)["branches"][0]["frames_done"] == 1
    assert web.get(f"/v1/stories/{story}/nodes/5.webp").status_code == 404
    assert web.delete(f"/v1/stories/{story}/nodes/5").status_code == 404
    assert "begins with this frame" in error_of(web.delete(f"/v1/stories/{story}/nodes/0"))
    branch(web, story, **{"from": 4})
    assert finished(web, story)["nodes"][-1]["id"] == 9
    assert web.delete(f"/v1/stories/{story}").status_code == 204
    assert web.get(f"/v1/stories/{story}").status_code == 404
    assert web.delete(f"/v1/stories/{story}").status_code == 404


def test_exports_of_paths_and_stories(web):
    story = begin(web)["id"]
    branch(web, story, **{"from": 3})
    finished(web, story)
    kinds = {"mp4": "video/mp4", "gif": "image/gif", "csv": "text/csv; charset=utf-8", "zip": "application/zip"}
    for kind, media in {**kinds, "npz": "application/octet-stream"}.items():
        response = web.get(f"/v1/stories/{story}/nodes/6/path.{kind}")
        assert response.status_code == 200
        assert response.headers["content-type"] == media
        assert response.headers["content-disposition"] == f'attachment; filename="story-6.{kind}"'
    assert "nothing has been dreamed" in error_of(web.get(f"/v1/stories/{story}/nodes/2/path.csv"))
    assert web.get(f"/v1/stories/{story}/nodes/6/path.exe").status_code == 400
    with zipfile.ZipFile(io.BytesIO(web.get(f"/v1/stories/{story}/story.zip").content)) as archive:
        assert json.loads(archive.read("story.json")) == whole(web, story)
        assert len([name for name in archive.namelist() if name.startswith("pictures/")]) == 7


def test_images_are_watermarked_and_cached(web):
    story = begin(web)["id"]
    branch(web, story, **{"from": 3}, frames=1)
    finished(web, story)
    (frame,) = frames_of(web, story, [4])
    png, small = (web.get(f"/v1/stories/{story}/nodes/4.{kind}") for kind in ("png", "webp"))
    assert "immutable" in png.headers["cache-control"]
    assert (pixels_of(png.content) == stamp(frame.frame_HWC)).all()
    near = pixels_of(small.content).astype(int)
    assert near.shape == (16, 24, 3)
    assert "immutable" in small.headers["cache-control"]
    for wrong in ("nodes/99.png", "nodes/x.png", "nodes/-1.webp"):
        assert web.get(f"/v1/stories/{story}/{wrong}").status_code in (400, 404)


# Limits


def test_limits_of_frames_and_stories():
    with client(max_steps=50, max_story_frames=20, max_stories=2) as web:
        story = begin(web)["id"]
        branch(web, story, **{"from": 3}, frames=10)
        response = web.post(f"/v1/stories/{story}/branches", json={"from": 3, "count": 2, "frames": 4})
        assert "at most 20" in error_of(response)
        finished(web, story)
        web.post(f"/v1/stories/{story}/nodes/3/edit", json={"overlay": overlay()}).raise_for_status()
        branch(web, story, **{"from": 3}, frames=5)
        finished(web, story)
        full = web.post(f"/v1/stories/{story}/nodes/3/edit", json={"overlay": overlay()})
        assert "at most 20" in error_of(full)
        begin(web)
        assert "too many stories" in error_of(web.post("/v1/stories", json={}))
        web.delete(f"/v1/stories/{story}")
        begin(web)


def test_a_replica_has_no_stories():
    with client(replica="a7") as web:
        assert "--cluster" in error_of(web.get("/v1/stories"))
        assert web.post("/v1/stories", json={}).status_code == 404


# Restart


def test_unfinished_branches_fail_after_a_restart():
    folder = stories_folder()
    with client(stories=folder, max_steps=100, max_branches=1) as web:
        story = begin(web, name="kept")["id"]
        branch(web, story, **{"from": 3}, count=2, frames=100)
        while not whole(web, story)["branches"][0]["frames_done"]:
            time.sleep(0.01)
    with client(stories=folder) as web:
        found = whole(web, story)
        assert [b["state"] for b in found["branches"]] == ["failed", "failed"]
        assert "what was made is kept" in found["branches"][0]["error"]
        made = found["branches"][0]["frames_done"]
        assert made > 0
        branch(web, story, **{"from": found["branches"][0]["last"]})
        assert finished(web, story)["branches"][2]["state"] == "done"


def test_a_story_with_unfinished_branches_can_be_read_when_the_disk_is_full(monkeypatch):
    folder = stories_folder()
    with client(stories=folder, max_steps=100) as web:
        story = begin(web)["id"]
        branch(web, story, **{"from": 3}, frames=100)

    def full(directory, changes):
        raise StorageError("the story cannot be written: no space left")

    monkeypatch.setattr(StoryDir, "append", full)
    with client(stories=folder) as web:
        assert [b["state"] for b in whole(web, story)["branches"]] == ["failed"]


def test_a_complete_branch_is_done_after_a_restart():
    folder = stories_folder()
    with client(stories=folder) as web:
        story = begin(web)["id"]
        branch(web, story, **{"from": 3}, frames=2)
        finished(web, story)
    log = folder / story / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    with client(stories=folder) as web:
        (found,) = whole(web, story)["branches"]
        assert (found["state"], found["error"], found["frames_done"]) == ("done", None, 2)


def test_another_model_continues_a_story_of_its_frame_size():
    folder = stories_folder()
    with client(stories=folder) as web:
        story = begin(web)["id"]
        (made,) = frames_of(web, story, [3])
    with client(stories=folder) as web:
        found = web.app.state.server.service.model
        object.__setattr__(found, "fingerprint", "other weights")
        branch(web, story, **{"from": 3})
        found = finished(web, story)
        assert found["branches"][0]["state"] == "done"
        assert frames_of(web, story, [4])[0].weights == "other weights"
        assert made.weights != "other weights"


@pytest.mark.parametrize("damage", [lambda log: b"{}\n", lambda log: log[: log.index(b"\n") + 1]])
def test_a_damaged_story_is_listed_with_its_error_and_can_be_deleted(damage):
    folder = stories_folder()
    with client(stories=folder) as web:
        broken, fine = begin(web)["id"], begin(web)["id"]
    log = folder / broken / "log.jsonl"
    log.write_bytes(damage(log.read_bytes()))
    with client(stories=folder) as web:
        items = web.get("/v1/stories").json()["stories"]
        assert [item["id"] for item in items] == [fine, broken]
        assert "damaged" in items[1]["error"]
        assert items[1]["picture"] is None
        assert "damaged" in error_of(web.get(f"/v1/stories/{broken}"))
        whole(web, fine)
        (folder / f".{broken}.gone" / "in the way").mkdir(parents=True)
        assert "cannot be removed" in error_of(web.delete(f"/v1/stories/{broken}"))
        assert len(web.get("/v1/stories").json()["stories"]) == 2
        (folder / f".{broken}.gone" / "in the way").rmdir()
        assert web.delete(f"/v1/stories/{broken}").status_code == 204
        assert [item["id"] for item in web.get("/v1/stories").json()["stories"]] == [fine]


# Events and keys, over a real socket


@contextmanager
def listening(address, story, **ask):
    """Collect the events of a story in a growing list, from the stream's first line on."""
    heard, opened, stop = [], threading.Event(), threading.Event()

    def listen():
        url = f"http://{address}/v1/stories/{story}/events"
        with httpx.stream("GET", url, params=ask.get("params"), headers=ask.get("headers"), timeout=30) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            said = {}
            for line in stream.iter_lines():
                opened.set()
                if line:
                    name, _, text = line.partition(": ")
                    said[name] = text
                elif "event" in said:
                    heard.append((int(said["id"]), said["event"], json.loads(said["data"])))
                    said = {}
                if stop.is_set():
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert opened.wait(30)
    yield heard if not ask.get("thread") else thread
    stop.set()


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def followed(story, heard):
    """Apply events to a story, as a page does."""
    nodes = {node["id"]: node for node in story["nodes"]}
    branches = {branch["id"]: branch for branch in story["branches"]}
    name = story["name"]
    for _, kind, data in heard:
        if kind == "node":
            nodes[data["id"]] = data
        elif kind == "branch":
            branches[data["id"]] = data
        elif kind == "removed":
            for number in data["nodes"]:
                nodes.pop(number, None)
            for number in data["branches"]:
                branches.pop(number, None)
        elif kind == "story":
            name = data["name"]
    return nodes, branches, name


def test_events_reproduce_the_story_and_resume_after_a_reconnect():
    with served(max_steps=20) as (address, _), httpx.Client(base_url=f"http://{address}") as web:
        begun = begin(web)
        story = begun["id"]
        with listening(address, story, params={"after": begun["revision"]}) as heard:
            branch(web, story, **{"from": 3}, count=2)
            finished(web, story)
            web.patch(f"/v1/stories/{story}/nodes/2", json={"starred": True})
            removed = web.delete(f"/v1/stories/{story}/nodes/{finished(web, story)['branches'][0]['first']}").json()
            now = web.patch(f"/v1/stories/{story}", json={"name": "other"}).json()
            wait_for(lambda: heard and heard[-1][0] == now["revision"])
        assert removed["branches"] == [0]
        known = ({n["id"]: n for n in now["nodes"]}, {b["id"]: b for b in now["branches"]}, "other")
        assert followed(begun, heard) == known
        assert [number for number, *_ in heard] == sorted(number for number, *_ in heard)
        middle = heard[len(heard) // 2][0]
        late = [event for event in heard if event[0] <= middle]
        with listening(address, story, headers={"Last-Event-ID": str(middle)}, params={"after": 1}) as rest:
            wait_for(lambda: rest and rest[-1][0] == now["revision"])
        assert followed(begun, late + rest) == known
        with listening(address, story, params={"after": 99_999}) as lost:
            wait_for(lambda: lost)
            assert lost[0][1] == "reload"
        odd = httpx.get(f"http://{address}/v1/stories/{story}/events", headers={"Last-Event-ID": "9" * 5000})
        assert odd.status_code == 400
        with listening(address, story) as last:
            web.delete(f"/v1/stories/{story}")
            wait_for(lambda: last)
            assert last[-1][1] == "gone"
        assert httpx.get(f"http://{address}/v1/stories/{story}/events").status_code == 404


def test_without_the_key_only_the_files_of_a_story_are_served():
    with served(api_key="sesame") as (address, _):
        home, key = f"http://{address}", {"Authorization": "Bearer sesame"}
        with httpx.Client(base_url=home, headers=key) as web:
            story = begin(web)["id"]
            branch(web, story, **{"from": 3}, frames=1)
            finished(web, story)
        place = f"/v1/stories/{story}"
        with httpx.Client(base_url=home) as stranger:
            for path in ("nodes/4.png", "nodes/4.webp", "nodes/4/path.csv", "story.zip"):
                assert stranger.get(f"{place}/{path}").status_code == 200
            for method, path in (
                ("GET", "/v1/stories"),
                ("POST", "/v1/stories"),
                ("GET", place),
                ("PATCH", place),
                ("DELETE", place),
                ("POST", f"{place}/branches"),
                ("DELETE", f"{place}/branches/0"),
                ("DELETE", f"{place}/nodes/4"),
                ("PATCH", f"{place}/nodes/4"),
                ("POST", f"{place}/nodes/4/edit"),
            ):
                assert stranger.request(method, path, json={}).status_code == 401
            unknown = f"/v1/stories/{'0' * 32}/nodes/0.png"
            assert stranger.get(unknown).status_code == 404
        with listening(address, story, params={"after": 1}) as heard:
            wait_for(lambda: heard)


def test_a_story_from_a_live_session():
    with served() as (address, app), httpx.Client(base_url=f"http://{address}") as web:
        with connect(f"ws://{address}/v1/play") as player:
            player.send(json.dumps({"type": "hello", "seed": 3, "controller": "model"}))
            while (ready := json.loads(player.recv()))["type"] == "opening":
                pass
            token, shown = ready["token"], 0
            while shown < 3:
                shown += isinstance(player.recv(), bytes)
            player.send(json.dumps({"type": "pause"}))
            while isinstance(said := player.recv(), bytes) or not json.loads(said).get("paused"):
                pass
            time.sleep(0.5)  # a frame that was in progress still arrives after the pause
            story = begin(web, session=token)
            connection = app.state.server.sessions.connections[token]
            kept = connection.history.frames()
        assert story["name"] == list_prompts()[0]
        assert len(story["nodes"]) == len(kept) == 4
        assert [node["origin"] for node in story["nodes"]][-3:] == ["dreamed"] * 3
        assert story["nodes"][-1]["action_source"] == "model"
        assert story["nodes"][-1]["action"] == kept[-1].action_A.tolist()
        branch(web, story["id"], **{"from": 3})
        assert finished(web, story["id"])["branches"][0]["state"] == "done"


def test_event_streams_end_when_the_server_stops():
    with served() as (address, _), httpx.Client(base_url=f"http://{address}") as web:
        story = begin(web)["id"]
        with listening(address, story, thread=True) as thread:
            time.sleep(0.3)
            assert thread.is_alive()
    thread.join(5)
    assert not thread.is_alive()


def test_concurrent_requests_leave_memory_and_disk_equal():
    with served(max_steps=20, max_sessions=8) as (address, app):
        home = f"http://{address}"
        with httpx.Client(base_url=home) as web:
            story = begin(web)["id"]
            branch(web, story, **{"from": 3}, count=4, frames=8)
        statuses: Counter[int] = Counter()

        def meddle(seed):
            draw, here = np.random.default_rng(seed), f"/v1/stories/{story}"
            with httpx.Client(base_url=home, timeout=60) as web:
                for _ in range(30):
                    pick = int(draw.integers(0, 40))
                    ways = [
                        ("PATCH", f"{here}/nodes/{pick}", {"starred": bool(pick % 2)}),
                        ("PATCH", f"{here}/nodes/{pick}", {"note": str(pick)}),
                        ("POST", f"{here}/nodes/{pick}/edit", {"overlay": overlay(), "copies": pick % 3}),
                        ("POST", f"{here}/branches", {"from": pick, "frames": 3, "count": 2}),
                        ("DELETE", f"{here}/branches/{pick % 12}", None),
                        ("DELETE", f"{here}/nodes/{pick}", None),
                        ("PATCH", here, {"name": f"name {pick}"}),
                    ]
                    method, path, body = ways[int(draw.integers(0, len(ways)))]
                    answer = web.request(method, path, json=body)
                    statuses[answer.status_code] += 1

        threads = [threading.Thread(target=meddle, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) <= {200, 201, 202, 204, 400, 404}
        assert min(statuses[status] for status in (200, 201, 202, 204)) > 0
        with httpx.Client(base_url=home) as web:
            found = finished(web, story)
        assert {b["state"] for b in found["branches"]} <= {"done", "cancelled"}
        known = app.state.server.stories._open[story]
        again = StoryDir(known.directory.folder).load()
        assert (again.header, again.nodes, again.branches) == (known.tree.header, known.tree.nodes, known.tree.branches)
        for number in again.nodes:
            known.directory.read_frame(number)
        names = {path.name.split(".")[0] for path in known.directory.folder.glob("*.webp")}
        assert names == {str(number) for number in again.nodes}
