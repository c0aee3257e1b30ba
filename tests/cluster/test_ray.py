"""Tokens that lead to a replica, the proxy's middleware, and shares of a cluster: without starting Ray."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from starlette.responses import JSONResponse
from starlette.testclient import TestClient, WebSocketDenialResponse

from playloom.errors import ConfigError, ResourceError
from playloom.server.middleware import AuthMiddleware
from playloom.server.ray import StickyMiddleware, _start, replica_resources, replicas_in
from playloom.server.settings import MAX_TOKEN_LENGTH, new_token, read_settings, replica_in
from serving_toys import client, error_of, picture, settings


def test_a_token_leads_to_its_server_and_cannot_be_guessed():
    assert replica_in(new_token("a_1-B")) == "a_1-B"
    assert replica_in(new_token(None)) is None
    assert len({new_token("a") for _ in range(100)}) == 100
    assert len(new_token("x" * 64)) <= MAX_TOKEN_LENGTH
    for name in (".secret", "a b.secret", "x" * 65 + ".secret", "", "é.secret"):
        assert replica_in(name) is None


def test_a_server_among_several_says_which_one_it_is():
    with client(replica="a7") as http:
        health = http.get("/v1/health")
        assert (health.json()["replica"], health.headers["x-playloom-replica"]) == ("a7", "a7")
        assert http.get("/nowhere").headers["x-playloom-replica"] == "a7"
        token = http.post("/v1/sessions", json={}).json()["token"]
        assert replica_in(token) == "a7"
        assert http.post(f"/v1/sessions/{token}/step", json={}).status_code == 200
        order = {"steps": [{"image_name": "a"}], "num_steps_to_predict": 1}
        job = http.post("/new_job", data={"json": json.dumps(order)}, files={"a": picture()}).json()["job_ids"][0]
        assert replica_in(job) == "a7"
        assert http.get("/cancel_job", params={"job_id": job}).json()["cancelled"]
    with client() as http:
        assert "x-playloom-replica" not in http.get("/v1/health").headers


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/v1/sessions/a.secret/step", "", {"a"}),
        ("/v1/sessions/a.secret", "at=b", {"a"}),
        ("/v1/sessions/secret/step", "", set()),
        ("/v1/play", "at=a", {"a"}),
        ("/v1/play", "at=a/../b", set()),
        ("/metrics", "x=1&at=a&at=b", {"b"}),
        ("/get_job_results", "job_ids=a.1&job_ids=a.2", {"a"}),
        ("/get_job_results", "job_ids=a.1&job_ids=b.2", {"a", "b"}),
        ("/get_job_results", "job_ids=1&job_ids=b.2", {"b"}),
        ("/cancel_job", "job_id=a.1&at=b", {"a"}),
        ("/score", "", set()),
        ("/score", "%ff=%fe&at=%ff", set()),
    ],
)
def test_a_request_names_its_replica(path, query, expected):
    assert replicas_in(path, query.encode()) == expected


async def _headers(scope, receive, send):
    await JSONResponse([[name.decode(), value.decode()] for name, value in scope["headers"]])(scope, receive, send)


def test_the_middleware_names_the_replica_in_a_header():
    http = TestClient(StickyMiddleware(_headers))
    assert http.get("/v1/sessions/a.secret", headers={"x-session-id": "mine"}).json()[-1] == ["x-session-id", "a"]
    assert "x-session-id" not in dict(http.get("/score").json())
    refused = http.get("/get_job_results", params={"job_ids": ["a.1", "b.1"]})
    assert (refused.status_code, "different replicas" in error_of(refused)) == (400, True)


def test_a_slow_reader_loses_frames_and_delays_no_other():
    async def talk():
        got, turns = [], asyncio.Semaphore(1)

        async def send(message):
            await turns.acquire()
            got.append(message.get("text") or message.get("bytes") or message["type"])

        async def app(scope, receive, send):
            await send({"type": "websocket.accept"})
            for number in range(200):
                await asyncio.wait_for(send({"type": "websocket.send", "bytes": bytes([number])}), 1)
                await asyncio.sleep(0)
            await send({"type": "websocket.send", "text": "state"})
            asyncio.get_running_loop().call_later(0.05, lambda: [turns.release() for _ in range(9)])
            await send({"type": "websocket.close", "code": 1000})

        scope = {"type": "websocket", "path": "/v1/play", "headers": []}
        await StickyMiddleware(app)(scope, None, send)
        return got

    with ThreadPoolExecutor(1) as pool:  # a browser test in this process leaves its event loop running
        got = pool.submit(asyncio.run, talk()).result()
    assert got[0] == "websocket.accept"
    assert [word for word in got if isinstance(word, str)][1:] == ["state", "websocket.close"]
    assert len(got) <= 5, "of two hundred frames"


def test_a_refused_websocket_gets_its_answer_through_the_proxy():
    http = TestClient(StickyMiddleware(AuthMiddleware(_headers, settings(api_key="k"))), base_url="http://a.example")
    with pytest.raises(WebSocketDenialResponse) as refused, http.websocket_connect("/v1/other"):
        pass
    assert refused.value.status_code == 401


@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        ({"replicas": 2}, [(2, 0)], (1, 0)),
        ({"replicas": 2}, [(8, 0)], (4, 0)),
        ({"replicas": 4}, [(2, 0)], (0.5, 0)),
        ({"replicas": 1, "max_replicas": 4}, [(4, 0)], (1, 0)),
        ({"replicas": 3}, [(4, 0), (4, 0)], (2, 0)),
        ({"replicas": 2}, [(1, 0), (7, 0)], (3, 0)),
        ({"replicas": 2}, [(16, 2)], (8, 1)),
        ({"replicas": 2}, [(64, 0), (4, 1), (4, 1)], (4, 1)),
        ({"replicas": 2, "device": "cpu"}, [(16, 2)], (8, 0)),
    ],
)
def test_resources_of_a_replica(asked, nodes, expected):
    there = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    assert replica_resources(settings(**{"device": "auto", **asked}), there) == expected


@pytest.mark.parametrize(
    ("asked", "node", "expected"),
    [
        ({"device": "auto"}, {"CPU": 16.0, "GPU": 1.0}, "GPUs"),
        ({"device": "cuda"}, {"CPU": 16.0}, "GPUs"),
        ({"device": "cpu", "replicas": 1000}, {"CPU": 1.0}, "CPUs"),
    ],
)
def test_too_many_replicas_are_refused(asked, node, expected):
    with pytest.raises(ResourceError, match=expected):
        replica_resources(settings(**asked), [node])


def test_contradictory_counts_are_refused():
    with pytest.raises(ConfigError, match="replicas"):
        read_settings(replicas=3, max_replicas=2)
    with pytest.raises(ConfigError, match="replica"):
        read_settings(replica="a.b")


def test_a_ray_that_starts_too_slowly_is_one_sentence(monkeypatch):
    def init(**options):
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("playloom.server.ray.ray.init", init)
    with (
        pytest.raises(ResourceError, match="cannot start the server: The current node timed out"),
        ExitStack() as stack,
    ):
        _start(settings(), stack)
