"""What stands before Ray's proxy, and what it is told: without Ray, in this process."""

import asyncio
import json
import os
import socket
import threading
import time

import pytest
import uvicorn
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

from playloom.cluster.affinity import Affinity, replicas_in
from playloom.cluster.environment import environment_of
from playloom.cluster.layers import layers_of
from playloom.cluster.messages import Messages
from playloom.cluster.newest import Newest
from playloom.cluster.plain import Plain
from playloom.cluster.plan import ClusterNode, fair_share
from playloom.errors import ConfigError, ResourceError
from playloom.server.settings import MAX_TOKEN_LENGTH, new_token, read_settings, replica_in
from serving_toys import HOME, client, error_of, picture, score_body, settings

OURS = {"x-playloom-replica": "a"}


def test_a_name_leads_to_its_server_and_cannot_be_guessed():
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
        ("/score", "&".join(["at=a"] * 300), set()),
        ("/score", "%ff=%fe&at=%ff", set()),
    ],
)
def test_a_request_names_its_replica(path, query, expected):
    assert replicas_in(path, query.encode()) == expected


async def _headers(scope, receive, send):
    await JSONResponse([[name.decode(), value.decode()] for name, value in scope["headers"]])(scope, receive, send)


def test_the_replica_goes_on_as_a_header_that_no_client_can_send():
    http = TestClient(Affinity(_headers))
    sent = {"X-Session-Id": "mine", "x_session_id": "mine", "serve-multiplexed-model-id": "m", "x-request-timeout": "1"}
    found = dict(http.get("/v1/sessions/a.secret", headers=sent).json())
    assert found["x-session-id"] == "a"
    assert not {"x_session_id", "serve-multiplexed-model-id", "x-request-timeout"} & set(found)
    assert "x-session-id" not in dict(http.get("/score", headers=sent).json())
    refused = http.get("/get_job_results", params={"job_ids": ["a.1", "b.1"]})
    assert refused.status_code == 400
    assert "different replicas" in error_of(refused)


class Reader:
    """The other end of a line, that takes one message for each `take`."""

    def __init__(self):
        self.got = []
        self.turns = asyncio.Semaphore(0)

    async def send(self, message):
        await self.turns.acquire()
        self.got.append(message.get("text") or message.get("bytes") or message["type"])

    async def take(self, count):
        for _ in range(count):
            self.turns.release()
        await asyncio.sleep(0.01)


def text(words):
    return {"type": "websocket.send", "text": words}


def frame(number):
    return {"type": "websocket.send", "bytes": bytes([number])}


def test_a_slow_reader_loses_frames_and_holds_up_nobody():
    async def talk():
        reader = Reader()

        async def app(scope, receive, send):
            await send({"type": "websocket.accept"})
            for number in range(5):
                await asyncio.wait_for(send(frame(number)), 1)
                await asyncio.wait_for(send(text(f"state {number}")), 1)
            await reader.take(6)  # what the sender holds already, then texts, then the newest frame
            for number in range(5, 200):
                await send(frame(number))
            await reader.take(1)
            asyncio.get_running_loop().call_later(0.05, lambda: [reader.turns.release() for _ in range(5)])
            await send({"type": "websocket.close", "code": 1000})

        await reader.take(1)
        await Newest(app)({"type": "websocket"}, None, reader.send)
        return reader.got

    got = asyncio.run(talk())
    assert got[0] == "websocket.accept"
    assert [word for word in got if isinstance(word, str)][1:-1] == [f"state {number}" for number in range(5)]
    frames = [word[0] for word in got if isinstance(word, bytes)]
    assert frames == sorted(frames)
    assert len(frames) <= 4, "of two hundred"
    assert 4 in frames
    assert got[-1] == "websocket.close", "after all that was said"


def test_little_lies_between_the_server_and_a_slow_reader():
    """Behind a real socket: who looked away for a second is shown the present, not the second."""
    made = 0

    async def app(scope, receive, send):
        nonlocal made
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        for made in range(400):
            await send({"type": "websocket.send", "bytes": made.to_bytes(4, "little") + bytes(20_000)})
            await asyncio.sleep(0.005)
        await send({"type": "websocket.close", "code": 1000})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        # As Ray's proxy runs it: uvicorn's own protocol, with nothing said about buffers.
        config = uvicorn.Config(Newest(app), lifespan="off", log_level="critical", ws_per_message_deflate=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        with little_buffered(listener.getsockname()) as line, connect("ws://a/", sock=line, max_queue=1) as player:
            player.recv(timeout=20)
            time.sleep(1)
            lag = [made - int.from_bytes(player.recv(timeout=20)[:4], "little") for _ in range(20)][-1]
            seen = sum(1 for _ in player) + 21
        server.should_exit = True
        thread.join(20)
    assert lag <= 10, "of some two hundred made meanwhile"
    assert seen < 399


def little_buffered(address):
    """A connection whose reader's machine takes in little for it."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    line.connect(address)
    return line


def test_a_reader_that_went_away_breaks_nothing():
    tried = []

    async def gone(message):
        tried.append(message["type"])
        if message["type"] != "websocket.accept":
            raise OSError("gone")

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        for number in range(3):
            await send(frame(number))
            await asyncio.sleep(0)
        await send({"type": "websocket.close", "code": 1000})

    asyncio.run(Newest(app)({"type": "websocket"}, None, gone))
    assert tried == ["websocket.accept", "websocket.send"], "nothing more is sent to one who is gone"


async def _silent(scope, receive, send):
    """As Ray is when a replica dies at a request."""
    await receive()


async def _raising(scope, receive, send):
    raise RuntimeError("Traceback: of Ray's own")


def _rays(status):
    """As Ray answers itself: in the words of HTTP, to WebSockets too."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Traceback ..."})

    return app


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (_silent, "is gone"),
        (_raising, "is gone"),
        (_rays(404), "no replica"),
        (_rays(503), "no replica"),
    ],
)
def test_rays_own_answers_become_sentences(app, expected):
    http = TestClient(Plain(app), raise_server_exceptions=False)
    answer = http.post("/score", content=b"x")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert expected in error_of(answer)
    with pytest.raises(WebSocketDisconnect) as closed, http.websocket_connect("/v1/play"):
        pass
    assert isinstance(closed.value, WebSocketDenialResponse)
    assert closed.value.status_code == 503


def test_a_replicas_answers_pass_and_rays_routes_too():
    http = TestClient(Plain(PlainTextResponse("mine", 500, headers=OURS)))
    assert (http.get("/score").status_code, http.get("/score").text) == (500, "mine")
    assert TestClient(Plain(PlainTextResponse("success"))).get("/-/healthz").text == "success"


def test_what_broke_off_after_its_start_stays_broken_off():
    async def halves(scope, receive, send):
        headers = [(b"x-playloom-replica", b"a"), (b"content-length", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Plain(halves)({"type": "http", "path": "/score"}, None, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]


def test_a_player_whose_replica_dies_is_told_to_come_back():
    async def dies(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "http.response.start", "status": 503, "headers": []})  # what Ray would say

    with TestClient(Newest(Plain(dies))).websocket_connect("/v1/play") as socket:
        message = socket.receive_json()
        assert message["type"] == "error"
        assert "is gone" in message["message"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1013


def test_a_message_that_is_too_large_ends_the_connection():
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            heard.append(message["text"])
        await send(text("to nobody"))

    limited = Newest(Messages(app, settings(socket_bytes=10)))
    with TestClient(limited).websocket_connect("/v1/play") as socket:
        socket.send_text("x" * 10)
        socket.send_text("é" * 6)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1009
    assert heard == ["x" * 10]


def test_the_layers_together_refuse_what_the_server_would():
    """Key, origin and size are judged before Ray reads a body."""
    stack = PlainTextResponse("ok", headers=OURS)
    for layer in layers_of(settings(api_key="secret", body_bytes=1000, allowed_origins=("https://a.example",))):
        stack = layer.cls(stack, *layer.args, **layer.kwargs)
    http = TestClient(stack, base_url=HOME)
    assert http.post("/score", json=score_body()).status_code == 401
    own = {"authorization": "Bearer secret"}
    large = http.post("/score", content=b"x" * 2000, headers=own)
    assert (large.status_code, "larger than 1,000" in error_of(large)) == (413, True)
    assert http.post("/score", content=b"x", headers={**own, "origin": "https://b.example"}).status_code == 403
    allowed = http.post("/score", content=b"x", headers={**own, "origin": "https://a.example"})
    assert (allowed.text, allowed.headers["access-control-allow-origin"]) == ("ok", "https://a.example")


def test_the_proxies_find_the_settings_in_their_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = read_settings(
        host="::1", api_key="secret", sessions=3, queue=0, allowed_origins=("https://a.example",), fps=12.5
    )
    told = environment_of(asked)
    assert told["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "playloom.cluster.layers.layers"
    assert "PLAYLOOM_MAX_STEPS" not in told, "a default"
    for name in [name for name in os.environ if name.startswith("PLAYLOOM_")]:
        monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert read_settings() == asked
    relative = environment_of(settings(model="my-model"))
    assert relative["PLAYLOOM_MODEL"] == str(tmp_path / "my-model")


@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        ({"replicas": 2}, [(2, 0)], (1, 0, 1)),
        ({"replicas": 2}, [(8, 0)], (4, 0, 4)),
        ({"replicas": 4}, [(2, 0)], (0.5, 0, 1)),
        ({"replicas": 1, "max_replicas": 4}, [(4, 0)], (1, 0, 1)),
        ({"replicas": 3}, [(4, 0), (4, 0)], (2, 0, 2)),
        ({"replicas": 2}, [(1, 0), (7, 0)], (3, 0, 3)),
        ({"replicas": 2}, [(16, 2)], (8, 1, 8)),
        ({"replicas": 2}, [(64, 0), (4, 1), (4, 1)], (4, 1, 4)),
        ({"replicas": 2, "device": "cpu"}, [(16, 2)], (8, 0, 8)),
    ],
)
def test_replicas_share_what_there_is(asked, nodes, expected):
    there = [ClusterNode(cpus=cpus, gpus=gpus) for cpus, gpus in nodes]
    share = fair_share(settings(**{"device": "auto", **asked}), there)
    assert (share.cpus, share.gpus, share.threads) == expected


@pytest.mark.parametrize(
    ("asked", "node", "expected"),
    [
        ({"device": "auto"}, (16, 1), "need 2, one each, and the cluster has 1"),
        ({"device": "cuda"}, (16, 0), "the cluster has 0"),
        ({"device": "cpu", "replicas": 1000}, (1, 0), "not the processors"),
    ],
)
def test_more_replicas_than_there_is_room_for_are_refused(asked, node, expected):
    with pytest.raises(ResourceError, match=expected):
        fair_share(settings(**asked), [ClusterNode(cpus=node[0], gpus=node[1])])


def test_counts_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match="at least 3 replicas and at most 2"):
        read_settings(replicas=3, max_replicas=2)
    with pytest.raises(ConfigError, match="replica"):
        read_settings(replica="a.b")
