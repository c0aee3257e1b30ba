"""The job API: its fields and status codes."""

import io
import json
import time
import zipfile

import pytest

from playloom.provenance import stamp
from serving_toys import client, error_of, picture, pixels_of

STILL = [0.0] * 16
AHEAD = [0.0] * 13 + [1.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def web():
    with client(max_jobs=6, max_steps=40) as found:
        yield found


def order(steps=2, **changes):
    names = ["first.png", "../../etc/passwd", "C:\\con", "ünï🂡.png"][:steps]
    context = [{"image_name": name, "action": AHEAD, "tokens": None} for name in names]
    return {"steps": context, "num_steps_to_predict": 3, "seed": 5, **changes}


def send(web, asked, files=None):
    names = {step["image_name"] for step in asked.get("steps", []) if isinstance(step, dict)}
    parts = {name: (name, picture(seed), "image/png") for seed, name in enumerate(sorted(names))}
    return web.post("/new_job", data={"json": json.dumps(asked)}, files=parts if files is None else files)


def start(web, asked):
    response = send(web, asked)
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"job_ids", "current_jobs_in_queue"}
    return response.json()["job_ids"]


def fetch(web, ids, count):
    """All results of some jobs, each read once, as (prediction, picture); 204 in between."""
    found, end = [], time.monotonic() + 20
    while len(found) < count and time.monotonic() < end:
        response = web.get("/get_job_results", params={"job_ids": ids})
        assert response.status_code in (200, 204), response.text
        if response.status_code == 204:
            assert not response.content
            time.sleep(0.02)
            continue
        archive = zipfile.ZipFile(io.BytesIO(response.content))
        predictions = json.loads(archive.read("predictions.json"))
        assert {p["image_filename"] for p in predictions} | {"predictions.json"} == set(archive.namelist())
        found += [(p, archive.read(p["image_filename"])) for p in predictions]
    return found


def test_the_first_page_says_what_there_is(web):
    assert web.get("/").json() == {
        "model_file": "tiny",
        "max_concurrent_jobs": 6,
        "max_dream_steps_per_job": 40,
        "max_job_lifespan": 600.0,
    }


def test_results_are_read_once(web):
    (name,) = start(web, order())
    found = fetch(web, [name], 3)
    assert [p["dream_step_index"] for p, _ in found] == [0, 1, 2]
    for prediction, png in found:
        assert set(prediction) == {"job_id", "dream_step_index", "action", "tokens", "image_filename"}
        assert prediction["job_id"] == name
        assert len(prediction["action"]) == 16
        assert all(value in (0, 1) for value in prediction["action"][:12])
        assert all(-1 <= value <= 1 for value in prediction["action"][12:])
        pixels = pixels_of(png)
        assert (stamp(pixels) == pixels).all(), "marked"
    time.sleep(0.1)
    assert web.get("/get_job_results", params={"job_ids": [name]}).status_code == 204


def test_parallel_predictions_differ_and_the_same_seed_repeats_them(web):
    first = start(web, order(num_parallel_predictions=2))
    second = start(web, order(num_parallel_predictions=2))
    rows = {}
    for name in first + second:
        rows[name] = [p["tokens"] for p, _ in fetch(web, [name], 3)]
    assert rows[first[0]] == rows[second[0]]
    assert rows[first[1]] == rows[second[1]]
    assert rows[first[0]] != rows[first[1]]


def test_future_actions_are_played_and_named_in_the_results(web):
    for sampled in ({"action": None}, None):
        (name,) = start(web, order(future_actions=[{"action": AHEAD}, sampled, {"action": STILL}]))
        actions = [p["action"] for p, _ in fetch(web, [name], 3)]
        assert actions[0] == AHEAD
        assert actions[2] == STILL
    (name,) = start(web, order(future_actions=None))
    assert len(fetch(web, [name], 3)) == 3


def test_tokens_go_on_without_drift(web):
    """A dream continued from its own tokens is the dream that went on by itself."""
    greedy = {"temperature": 0, "future_actions": [{"action": AHEAD}] * 4}
    (whole,) = start(web, order(1, num_steps_to_predict=4, **greedy))
    steps = fetch(web, [whole], 4)
    context = order(1)["steps"]
    for number, (prediction, _) in enumerate(steps[:2]):
        context.append({"image_name": f"{number}", "action": prediction["action"], "tokens": prediction["tokens"]})
    (rest,) = start(web, {"steps": context, "num_steps_to_predict": 1, **greedy})
    assert fetch(web, [rest], 1)[0][0]["tokens"] == steps[2][0]["tokens"]


def test_the_context_keeps_its_last_steps_and_sampling_may_be_text(web):
    """The original took the first steps, and refused top_k and max_context_length."""
    asked = order(3, max_context_length=1, top_k="5", top_p="0.9", temperature="0.8")
    (name,) = start(web, asked)
    long = fetch(web, [name], 3)
    only = {**asked, "steps": asked["steps"][-1:]}
    names = sorted(step["image_name"] for step in asked["steps"])
    parts = {n: (n, picture(seed), "image/png") for seed, n in enumerate(names)}
    short = fetch(web, send(web, only, parts).json()["job_ids"], 3)
    assert [p["tokens"] for p, _ in long] == [p["tokens"] for p, _ in short]


def test_a_cancelled_job_is_gone(web):
    (name,) = start(web, order(num_steps_to_predict=40))
    assert web.get("/cancel_job", params={"job_id": name}).json()["cancelled"]
    assert web.get("/cancel_job", params={"job_id": name}).status_code == 404
    assert web.get("/get_job_results", params={"job_ids": [name]}).status_code == 404
    assert web.app.state.server.jobs.running == 0


def test_an_error_is_read_after_the_results_before_it(web, monkeypatch):
    """The error was lost when it was there together with results, and all but the first of several jobs' errors."""
    png, count = web.app.state.server.service.png, []

    async def fails_at_the_second(*args):
        count.append(args)
        if len(count) > 2:
            raise RuntimeError("secret detail")
        return await png(*args)

    monkeypatch.setattr(web.app.state.server.service, "png", fails_at_the_second)
    names = start(web, order(num_parallel_predictions=2))
    end = time.monotonic() + 20
    while web.app.state.server.jobs.running and time.monotonic() < end:
        time.sleep(0.02)
    assert len(fetch(web, names, 2)) == 2
    for _ in names:
        failed = web.get("/get_job_results", params={"job_ids": names})
        assert failed.status_code == 500
        assert "secret" not in error_of(failed)
    assert web.get("/get_job_results", params={"job_ids": names}).status_code == 204


def test_a_full_queue_is_refused(web):
    names = start(web, order(num_parallel_predictions=6, num_steps_to_predict=40))
    assert "full" in error_of(send(web, order()))
    for name in names:
        web.get("/cancel_job", params={"job_id": name})
    assert start(web, order())


def test_a_job_past_its_lifespan_is_forgotten():
    with client(job_seconds=0.2) as web:
        (name,) = start(web, order())
        time.sleep(0.3)
        assert web.get("/get_job_results", params={"job_ids": [name]}).status_code == 404


BAD = {
    "too many steps": (order(num_steps_to_predict=41), "at most 40"),
    "no steps": (order(steps=0), "steps"),
    "no number": ({"steps": order()["steps"]}, "num_steps_to_predict"),
    "half an action": (order(steps=1) | {"steps": [{"image_name": "a", "action": [0]}]}, "1 numbers"),
    "nobody's action": ({**order(), "steps": [{"image_name": "a"}, {"image_name": "b"}]}, "step 0 has no action"),
    "too many at once": (order(num_parallel_predictions=10**9), "at most 6"),
    "a stick of two": (order(future_actions=[{"action": [0.0] * 12 + [2.0] * 4}]), "future action 0"),
    "tokens of another model": ({**order(), "steps": [{"image_name": "a", "action": AHEAD, "tokens": [1]}]}, "tokens"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_job_gets_400(web, name):
    asked, expected = BAD[name]
    response = send(web, asked)
    assert response.status_code == 400
    assert expected in error_of(response)


def test_invalid_forms(web):
    assert "json" in error_of(web.post("/new_job", data={"other": "1"}))
    assert web.post("/new_job", content=b"\x00\xff", headers={"content-type": "multipart/form-data"}).status_code == 400
    assert "does not hold" in error_of(send(web, order(), {"first.png": ("first.png", picture())}))
    assert "neither" in error_of(send(web, order(1), {"first.png": ("first.png", b"PK\x03\x04" + bytes(99))}))
    odd = {"content-type": "multipart/form-data; boundary=b; charset=undefined"}
    part = b'--b\r\nContent-Disposition: form-data; name="json"\r\n\r\n{}\r\n--b--\r\n'
    refused = web.post("/new_job", content=part, headers=odd)
    assert refused.status_code == 400
    assert "charset" in error_of(refused)
    many = {f"{number}": ("x", b"1") for number in range(200)}
    assert web.post("/new_job", data={"json": "{}"}, files=many).status_code == 400
    assert web.get("/get_job_results").status_code == 400
    error_of(web.get("/cancel_job", params={"job_id": "../../x"}))
