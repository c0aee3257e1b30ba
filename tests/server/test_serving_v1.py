"""`/v1`: three modes, policy, sessions stepped by requests, models and prompts."""

import base64
import io
import threading
import time
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from conftest import loud_model, tiny_config
from playloom.actions.codec import REST_VALUES, values_to_rows
from playloom.data.prompts import list_prompts, save_prompt_file
from playloom.media.images import read_picture
from playloom.models.checkpoint import save_model
from serving_toys import b64, client, error_of, picture, pixels_of

TURN = [0.0, 0.0, 1.0] + [0.0] * 13


@pytest.fixture(scope="module")
def web():
    with client(max_sessions=2, max_steps=20) as found:
        yield found


def dream(web, **order):
    response = web.post("/v1/dream", json={"seed": 3, **order})
    assert response.status_code == 200, response.text
    return response.json()["steps"]


def test_world_mode_equals_the_engine(web):
    steps = dream(web, actions=[TURN] * 3, steps=3, prompt=list_prompts()[1])
    service = web.app.state.server.service
    session = service.engine.open(service.named_prompt(list_prompts()[1])[0], sampling=service.sampling(), seed=3)
    turn = np.array([0] * 14 + [10, 5], np.uint8)
    turn[12:14] = 5
    for step in steps:
        assert step["action"] == TURN
        assert step["action_given"]
        assert step["tokens"] == session.step(turn).codes_N.tolist()


def test_full_and_policy(web):
    full = dream(web, mode="full", steps=2, images=[b64(picture(seed)) for seed in range(2)])
    assert [step["action_given"] for step in full] == [False, False]
    assert all(step["image"] for step in full)
    policy = dream(web, mode="policy", steps=3, images=[b64(picture())], frames=[b64(picture(1)), b64(picture(2))])
    assert [step["image"] for step in policy] == [None] * 3
    from_moment = dream(web, mode="policy", steps=3)
    assert len(from_moment) == 3
    assert "expected one for each" in error_of(web.post("/v1/dream", json={"images": [b64(picture())]}))
    assert "policy mode" in error_of(web.post("/v1/dream", json={"images": [b64(picture())], "mode": "policy"}))


def test_the_next_action_alone(web):
    one = web.post("/v1/policy", json={"images": [b64(picture())], "seed": 1, "schema": "binned"}).json()
    assert len(one["action"]) == 16
    assert one == web.post("/v1/policy", json={"images": [b64(picture())], "seed": 1, "schema": "binned"}).json()


def test_every_field_of_a_dream_has_a_default(web):
    steps = dream(web, steps=2)
    manifest = read_picture(base64.b64decode(steps[1]["image"])).manifest
    assert (manifest.mode, manifest.step, manifest.seed) == ("world", 2, 3)


def test_as_many_actions_as_the_schema_allows_are_read(web):
    assert len(dream(web, steps=1, actions=[TURN] * 10_000)) == 1


def test_a_session_goes_on_step_by_step_and_is_recorded(web):
    opened = web.post("/v1/sessions", json={"seed": 4})
    assert opened.status_code == 201
    token = opened.json()["token"]
    place = f"/v1/sessions/{token}"
    assert "no frame" in error_of(web.get(f"{place}/recording.mp4"))
    steps = [web.post(f"{place}/step", json={"action": TURN}).json(), web.post(f"{place}/step", json={}).json()]
    assert [step["index"] for step in steps] == [0, 1]
    assert [step["action_given"] for step in steps] == [True, False]
    whole = dream(web, mode="full", steps=2, seed=4, actions=[TURN])
    assert [step["tokens"] for step in whole] == [step["tokens"] for step in steps]
    video = web.get(f"{place}/recording.mp4")
    assert video.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(video.content)) as movie:
        assert sum(1 for _ in movie.decode(video=0)) == 2
    rows = web.get(f"{place}/recording.csv").text.splitlines()
    assert len(rows) == 3
    assert rows[0].startswith("step,left_stick_x")
    assert web.delete(place).status_code == 204
    assert web.post(f"{place}/step", json={}).status_code == 404
    assert web.delete(place).status_code == 404


def test_a_step_whose_request_ended_before_is_recorded_too(web, monkeypatch):
    service, busy = web.app.state.server.service, threading.Event()
    place = f"/v1/sessions/{web.post('/v1/sessions', json={}).json()['token']}"
    with monkeypatch.context() as hasty:
        hasty.setattr(service.limiter, "seconds", 0.3)
        service.io_pool.submit(busy.wait, 20)
        assert web.post(f"{place}/step", json={"action": TURN}).status_code == 504
    busy.set()
    second = web.post(f"{place}/step", json={}).json()
    assert second["index"] == 1
    rows = web.get(f"{place}/recording.csv").text.splitlines()
    assert len(rows) == 3, "and no row is missing from what leads to the newest frame"
    web.delete(place)


def test_sessions_are_bounded_and_idle_ones_go():
    with client(max_sessions=1, idle_seconds=0.5) as web:
        assert web.post("/v1/sessions", json={}).status_code == 201
        full = web.post("/v1/sessions", json={})
        assert full.status_code == 503
        assert int(full.headers["retry-after"]) > 0
        assert "taken" in error_of(full)
        time.sleep(2)
        assert web.post("/v1/sessions", json={}).status_code == 201


def test_a_session_that_a_failure_closed_is_gone(web, monkeypatch):
    service, step = (
        web.app.state.server.service,
        f"/v1/sessions/{web.post('/v1/sessions', json={}).json()['token']}/step",
    )
    with monkeypatch.context() as broken:
        broken.setattr(service.engine, "step_async", lambda inputs: 1 / 0)
        assert web.post(step, json={}).status_code == 500
    service.scheduler.run(lambda: None).result(10)  # the handle is closed before it
    gone = web.post(step, json={})
    assert gone.status_code == 404 and "no such session" in error_of(gone), "and no 503: to try again is of no use"
    web.app.state.server.sessions.expire()
    assert not web.app.state.server.sessions.http_sessions


def test_invalid_requests(web):
    for order, expected in (
        ({"prompt": "nowhere"}, "no bundled prompt"),
        ({"prompt": list_prompts()[0], "images": [b64(picture())]}, "one of the two"),
        ({"images": []}, "images"),
        ({"images": [b64(picture())] * 2, "context_actions": []}, "1 context_actions"),
        ({"actions": [[2.0] * 16], "steps": 1}, "action 0"),
        ({"actions": [TURN], "steps": 2}, "2 steps"),
        ({"steps": 21}, "at most 20"),
        ({"mode": "dream"}, "mode"),
        ({"context_actions": [TURN]}, "without images"),
        ({"mode": "policy", "actions": [TURN], "steps": 1}, "policy does not use"),
        ({"mode": "full", "frames": [b64(picture())], "steps": 1}, "full does not use"),
        ({"images": ["%%%"]}, "base64"),
    ):
        response = web.post("/v1/dream", json=order)
        assert response.status_code == 400
        assert expected in error_of(response)


@pytest.mark.parametrize("path", ["/v1/dream", "/v1/policy", "/v1/sessions"])
def test_an_unknown_field_names_the_nearest(web, path):
    """A typo was never noticed: the dream went on with the model's own temperature."""
    response = web.post(path, json={"temprature": 0.5})
    assert response.status_code == 400 and "did you mean temperature?" in error_of(response)
    assert "did you mean schema?" in error_of(web.post(path, json={"shema": "named"}))
    assert web.post(path, json={str(number): 0 for number in range(100_000)}).status_code == 400


def test_an_unknown_field_of_a_step_is_refused(web):
    token = web.post("/v1/sessions", json={}).json()["token"]
    assert "did you mean action?" in error_of(web.post(f"/v1/sessions/{token}/step", json={"actions": None}))


def test_models_prompts_and_metrics(web):
    models = web.get("/v1/models").json()
    assert models[0]["name"] == "tiny"
    assert [model["serving"] for model in models] == [True] + [False] * (len(models) - 1)
    used = web.app.state.server.service.sampling().temperature
    assert [model["temperature"] for model in models] == [used] + [None] * (len(models) - 1)
    schema = web.get("/v1/openapi.json").json()["components"]["schemas"]["ModelInfo"]["properties"]
    assert "card" in schema["temperature"]["description"]
    moments = web.get("/v1/prompts").json()
    assert [moment["name"] for moment in moments] == list_prompts()
    shown = web.get(moments[0]["picture"])
    assert Image.open(io.BytesIO(shown.content)).size == (300, 180)
    assert web.get("/v1/prompts/..%2f..%2fx/picture.png").status_code == 404
    assert "nothing here" not in error_of(web.get("/v2"))
    assert web.get("/score").status_code == 405
    text = web.get("/metrics").text
    for name in (
        "requests_total",
        "batch_size_bucket",
        "generated_frames_total",
        "input_latency_seconds",
        "requests_waiting",
    ):
        assert f"playloom_{name}" in text


def test_a_model_is_served_with_its_own_prompts_and_controls(tmp_path):
    model = loud_model(tiny_config())
    model.card["controls"] = {"trigger_RT": "gas", "button_A": None}
    config = replace(model.config, name="racing")
    save_model(tmp_path, replace(model, config=config), dtype=None)
    sizes = config.tokenizer
    shape = (20, sizes.frame_height, sizes.frame_width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    save_prompt_file(tmp_path / "prompts" / "bend", frames, np.tile(REST_VALUES, (20, 1)), {})
    with client(model=str(tmp_path)) as web:
        served = web.get("/v1/models").json()[0]
        assert (served["name"], served["controls"]) == ("racing", model.card["controls"])
        (prompt,) = web.get("/v1/prompts").json()
        shown = Image.open(io.BytesIO(web.get(prompt["picture"]).content))
        context = model.config.transformer.context_steps
        assert prompt["name"] == "bend" and np.array_equal(np.asarray(shown), frames[context - 1])
        assert len(dream(web, steps=2)) == len(dream(web, steps=2, prompt="bend")) == 2
        assert "no prompt" in error_of(web.post("/v1/dream", json={"steps": 1, "prompt": list_prompts()[0]}))


def test_named_actions_are_the_guide_s(web):
    forward = values_to_rows(np.array([0] * 12 + [5, 10, 5, 5], np.uint8), "named").tolist()
    steps = dream(web, steps=1, actions=[forward])
    assert steps[0]["action"][1] == -1
    assert pixels_of(steps[0]["image"]).shape == (*web.app.state.server.service.size, 3)
