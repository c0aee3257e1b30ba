"""Authorization, limits and timeouts of the server."""

import asyncio
import json
import logging
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from fastapi import HTTPException
from websockets.sync.client import connect

from playloom.errors import BadInputError, ConfigError, PictureError, PlayloomError
from playloom.media.images import picture_size, read_frame
from playloom.server.app import create_app
from playloom.server.errors import to_http_error
from playloom.server.main import listen, server_of
from playloom.server.service import RequestLimiter
from playloom.server.settings import read_settings
from serving_toys import HOME, client, entry, error_of, picture, score_body, served, settings


def test_without_a_key_only_this_machine_is_served():
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(ConfigError, match="without a key"):
            read_settings(host=host)
        assert read_settings(host=host, api_key="secret").key == "secret"
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert read_settings(host=host).local


@pytest.mark.parametrize("host", ["1.2.3.4.5", "é" * 70])
def test_an_address_that_is_none_is_a_sentence(host):
    with pytest.raises(BadInputError, match="cannot listen"):
        listen(read_settings(host=host, api_key="x"))


def test_settings_come_from_the_environment_and_mistakes_are_sentences(monkeypatch):
    monkeypatch.setenv("PLAYLOOM_MAX_SESSIONS", "3")
    monkeypatch.setenv("PLAYLOOM_API_KEY", "secret")
    assert read_settings().max_sessions == 3
    assert read_settings(max_sessions=4).max_sessions == 4
    assert read_settings().key == "secret"
    assert "secret" not in repr(read_settings())
    monkeypatch.setenv("PLAYLOOM_MAX_SESSIONS", "many")
    with pytest.raises(ConfigError, match="sessions"):
        read_settings()
    monkeypatch.setenv("PLAYLOOM_MAX_SESSIONS", "3")
    monkeypatch.setenv("PLAYLOOM_ALLOWED_ORIGINS", "not json")
    with pytest.raises(ConfigError, match="environment"):
        read_settings()
    monkeypatch.setenv("PLAYLOOM_ALLOWED_ORIGINS", '["null", "https://a.example:8000", "app://x", "http://[::1]"]')
    assert len(read_settings().allowed_origins) == 4
    for never in ("*", "https://a.example/", "a.example", "https://A.example"):  # none equals what a browser sends
        with pytest.raises(ConfigError, match="allowed_origins"):
            read_settings(allowed_origins=(never,))


def test_a_key_that_no_header_can_hold_is_refused():
    with pytest.raises(ConfigError, match="api_key") as caught:
        read_settings(api_key="sésame")
    assert "sésame" not in str(caught.value)


def test_the_key():
    with client(api_key=" sesame\n") as web:  # as a file gives it
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer sesam"}, {"Authorization": "é"}):
            sent = {name: value.encode() for name, value in headers.items()}
            for method, path in (("POST", "/score"), ("GET", "/metrics"), ("POST", "/new_job"), ("GET", "/v1/models")):
                refused = web.request(method, path, headers=sent)
                assert refused.status_code == 401
                assert "Bearer KEY" in error_of(refused)
        right = {"Authorization": "Bearer sesame"}
        assert web.post("/score", json=score_body(), headers=right).status_code == 200
        assert web.get("/v1/models", headers=right).status_code == 200
        assert web.get("/v1/models", headers={"Authorization": "bearer sesame"}).status_code == 200
        for path in ("/", "/v1/health", "/v1/prompts", "/v1/openapi.json"):
            assert web.get(path).status_code == 200, "what the page shows before a key is typed in"
        assert web.get("/", headers={"Host": "any.example"}).status_code == 200


def test_foreign_host_names_are_refused():
    with client() as web:
        for host in ("evil.example", "evil.example:5000", "127.0.0.1.evil.example", "", "[", "10.0.0.1"):
            refused = web.get("/v1/health", headers={"Host": host})
            assert refused.status_code == 403
            error_of(refused)
        for host in ("127.0.0.1", "localhost:1234", "[::1]:5000", "LOCALHOST"):
            assert web.get("/v1/health", headers={"Host": host}).status_code == 200


def test_other_origins_are_refused_unless_allowed():
    with client() as web:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:9", "http://["):
            assert web.post("/score", json=score_body(), headers={"Origin": origin}).status_code == 403
        assert web.post("/score", json=score_body(), headers={"Origin": HOME}).status_code == 200
        hidden = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert web.get("/cancel_job", params={"job_id": "x"}, headers=hidden).status_code == 403
        assert web.get("/", headers={**hidden, "Sec-Fetch-Mode": "navigate"}).status_code == 200
        assert "access-control-allow-origin" not in web.get("/v1/health", headers={"Origin": HOME}).headers
    with client(allowed_origins=("https://friend.example",)) as web:
        friend = {"Origin": "https://friend.example"}
        assert web.get("/v1/health", headers=friend).headers["access-control-allow-origin"] == friend["Origin"]
        asked = {**friend, "Access-Control-Request-Method": "POST"}
        assert web.options("/score", headers=asked).status_code == 200
        assert web.get("/v1/health", headers={"Origin": "https://evil.example"}).status_code == 403


def test_no_traceback_leaves(caplog):
    with client() as web:
        service = web.app.state.server.service

        async def broken(*args, **kwargs):
            raise RuntimeError("secret detail")

        service.prompt = broken
        with caplog.at_level(logging.CRITICAL):
            failed = web.post("/score", json=score_body())
        assert failed.status_code == 500
        assert "secret" not in error_of(failed)
        assert 'method="POST",route="/score",status="500"' in web.get("/metrics").text
    assert to_http_error(PlayloomError("said")).detail == "said"


def test_the_page_for_browsers_and_facts_for_programs():
    with client() as web:
        assert "max_concurrent_jobs" in web.get("/", headers={"Accept": "application/json"}).json()
        assert "max_concurrent_jobs" in web.get("/", headers={"Accept": "*/*"}).json()
        shown = web.get("/", headers={"Accept": "text/html,*/*"})
        assert shown.headers["x-content-type-options"] == "nosniff"
        if "text/html" in shown.headers["content-type"]:
            assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
        assert "MIT" in web.get("/licences.txt").text, "the script is only given with the licences of what it contains"
        assert web.get("/favicon.svg").headers["content-type"] == "image/svg+xml"


def test_head_is_answered_as_get_without_the_body():
    with served() as (address, _), httpx.Client(base_url=f"http://{address}") as web:
        for path in ("/", "/favicon.svg", "/metrics", "/v1/health", "/v1/models", "/v1/openapi.json", "/nothing"):
            head, got = web.head(path), web.get(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["content-type"] == got.headers["content-type"]
        assert 'playloom_requests_total{method="HEAD",route="/v1/health",status="200"} 1.0' in web.get("/metrics").text
        for path in ("/score", "/cancel_job?job_id=1", "/get_job_results?job_ids=1", f"/v1/stories/{'0' * 32}/events"):
            assert web.head(path).status_code == 405, "only a GET may cancel, take results or wait for events"


def test_bodies_are_bounded_all_together():
    with served(max_inflight_bytes=1000) as server, httpx.Client(base_url=f"http://{server[0]}", timeout=20) as web:
        assert web.post("/score", json=score_body()).status_code == 200, "alone it may be as large as body_bytes"
        with dial(server) as line:
            line.sendall(b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n" + b" " * 999)
            time.sleep(0.3)
            refused = web.post("/score", json=score_body())
            assert refused.status_code == 503 and "at once" in error_of(refused)
            assert refused.headers["retry-after"]
            assert web.get("/v1/health").status_code == 200


def test_a_request_that_takes_too_long_gets_504():
    with client(request_seconds=0.2, max_steps=10_000) as web:
        slow = web.post("/score", json=score_body(num_steps_to_predict=10_000))
        assert slow.status_code == 504
        error_of(slow)
        broker = web.app.state.server.service.scheduler
        end = time.monotonic() + 5
        while broker.stats.sessions and time.monotonic() < end:
            time.sleep(0.02)
        assert broker.stats.sessions == 0, "its session was given back"
        assert web.app.state.server.service.limiter.running == 0


def test_a_drain_ends_in_time_when_the_event_loop_lags(monkeypatch):
    clock = Mock(monotonic=Mock(return_value=100.0))
    monkeypatch.setattr("playloom.server.main.time", clock)
    monkeypatch.setattr("playloom.server.main.threading", Mock())  # its timer would end this process
    chosen, said = settings(drain_seconds=8), []
    app = create_app(chosen)
    application = app.state.server
    with listen(chosen) as listener:
        server = server_of(chosen, app, listener, said.append)
    monkeypatch.setattr(application.metrics, "in_progress", 1)
    server.handle_exit(signal.SIGTERM, None)
    assert not asyncio.run(server.on_tick(1))
    clock.monotonic.return_value = 108.0  # one long tick
    assert asyncio.run(server.on_tick(2))
    assert len(said) == 1
    application.service.close(1.0)


def test_a_stopping_server_waits_for_a_recording_and_gives_it_up_with_503():
    with client() as web, ThreadPoolExecutor(1) as pool:
        server, until, busy = web.app.state.server, time.monotonic() + 10, threading.Event()
        place = f"/v1/sessions/{web.post('/v1/sessions', json={}).json()['token']}"
        web.post(f"{place}/step", json={}).raise_for_status()
        assert not server.has_active_work
        server.service.encode_pool.submit(busy.wait, 20)
        answer = pool.submit(web.get, f"{place}/recording.mp4")
        while not server.has_active_work and time.monotonic() < until:
            time.sleep(0.02)
        assert server.has_active_work
        web.portal.call(server.service.limiter.abort_all)
        assert answer.result(10).status_code == 503 and "stopped before" in error_of(answer.result())
        busy.set()
        assert not server.has_active_work


def test_the_limiter_is_first_come_first_served():
    async def play():
        gate, order = RequestLimiter(1, 2, 60), []

        async def one(name):
            async with gate.slot():
                order.append(name)
                await asyncio.sleep(0.01)

        tasks = [asyncio.ensure_future(one(name)) for name in "abc"]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException) as refused:
            await one("d")
        assert refused.value.status_code == 503
        assert int(refused.value.headers["Retry-After"]) >= 1
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]
        assert gate.running == gate.waiting == 0
        gate.draining = True
        with pytest.raises(HTTPException, match="stopping"):
            await one("e")

    with ThreadPoolExecutor(1) as pool:  # a browser test in this process leaves its event loop running
        pool.submit(asyncio.run, play()).result()


def test_concurrent_requests_share_batches_and_more_get_503():
    with served(max_requests=4, queue=4, batch=4) as (address, app):
        body = score_body(num_steps_to_predict=5)
        with httpx.Client(timeout=20) as web, ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: web.post(f"http://{address}/score", json=body), range(8)))
            assert [reply.status_code for reply in found] == [200] * 8
            tokens = [[step["tokens"] for step in reply.json()["results"]] for reply in found]
            assert tokens == [tokens[0]] * 8, "the same alone and in any company"
            sizes = app.state.server.service.scheduler.stats.batches
            assert any(size > 1 for size in sizes)
            with ThreadPoolExecutor(24) as crowd:
                codes = list(crowd.map(lambda _: web.post(f"http://{address}/score", json=body), range(24)))
        refused = [reply for reply in codes if reply.status_code == 503]
        assert {reply.status_code for reply in codes} == {200, 503}
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)


@pytest.fixture(scope="module")
def tight():
    with served(header_seconds=0.6, body_seconds=0.6, max_connections=12, body_bytes=200_000) as found:
        yield found


def dial(server):
    host, port = server[0].split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def all_of(line):
    """Everything that comes until the other side closes."""
    data = b""
    try:
        while chunk := line.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def healthy(server):
    with httpx.Client() as web:
        return web.get(f"http://{server[0]}/v1/health").status_code == 200


def test_a_head_that_does_not_come_is_cut_off(tight):
    silent, slow = dial(tight), dial(tight)
    with silent, slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        drip = threading.Thread(target=dripped, args=(slow, b"X-A: b\r\n"))
        drip.start()
        assert healthy(tight)
        for line in (silent, slow):
            assert b" 408 " in all_of(line)
        drip.join()


def dripped(line, piece, pause=0.05, times=60):
    try:
        for _ in range(times):
            line.sendall(piece)
            time.sleep(pause)
    except OSError:
        pass


def test_a_body_that_does_not_come_is_cut_off(tight):
    with dial(tight) as line:
        line.sendall(b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n{")
        drip = threading.Thread(target=dripped, args=(line, b" "))
        drip.start()
        answer = all_of(line)
        drip.join()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"within 0.6 seconds" in answer


def test_a_body_that_says_it_is_too_large_is_not_read(tight):
    with dial(tight) as line:
        line.sendall(b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n\r\n{")
        answer = line.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
    with dial(tight) as line:
        line.sendall(b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        threading.Thread(target=dripped, args=(line, piece, 0.0, 8)).start()
        assert line.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert healthy(tight)


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00" * 20, b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"b" * 200_000 + b"\r\n\r\n"]
)
def test_invalid_http_gets_400(tight, junk):
    with dial(tight) as line:
        line.sendall(junk)
        answer = all_of(line)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert "no HTTP request" in json.loads(body)["error"]


def test_idle_connections_are_closed_above_the_limit(tight):
    """More connections than may be: the longest idle ones go, and whoever wants something gets in."""
    lines = [dial(tight) for _ in range(40)]
    try:
        assert healthy(tight)
        assert b"too many connections" in all_of(lines[0])
    finally:
        for line in lines:
            line.close()
    assert healthy(tight)


def test_a_connection_is_used_again_and_again(tight):
    with httpx.Client() as web:
        for _ in range(3):
            assert web.get(f"http://{tight[0]}/v1/health").status_code == 200
            time.sleep(0.1)
        assert web.post(f"http://{tight[0]}/score", json=score_body([entry()])).status_code == 200


def test_a_client_that_hangs_up_frees_its_session(tight):
    body = json.dumps(score_body(num_steps_to_predict=90)).encode()
    head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    server = tight[1].state.server
    with dial(tight) as line:
        line.sendall(head + body)
        until(lambda: server.service.scheduler.stats.sessions == 1)
    began = server.service.scheduler.stats.frames
    until(lambda: server.service.scheduler.stats.sessions == 0 and server.service.limiter.running == 0)
    assert server.service.scheduler.stats.frames - began < 80


def until(happened, seconds=8.0):
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.005)
    assert happened()


def test_every_setting_is_in_the_guide():
    guide = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    for name in type(settings()).model_fields:
        assert f"`PLAYLOOM_{name.upper()}`" in guide, f"docs/serve.md does not say what {name} is"


def test_image_sizes_are_read_without_decoding():
    for kind in ("PNG", "JPEG"):
        assert picture_size(picture(0, (30, 50), kind), "it") == (50, 30)
    with pytest.raises(PictureError, match="100 pixels"):
        read_frame(picture(), (4, 6), where="it", pixels=100)
    for cut in range(0, 400, 7):
        with pytest.raises(PictureError):
            read_frame(picture(0, (30, 50), "JPEG")[:cut], (4, 6), where="it", pixels=10**6)


def test_the_access_log_has_no_secret(caplog):
    story = "0123456789abcdef" * 2
    with caplog.at_level(logging.INFO, logger="playloom.access"), served(api_key="sesame") as (address, _):
        for path in ("/v1/health?key=sesame", f"/v1/stories/{story}/story.zip", "/a%0A1.2.3.4%20GET%20/%1b[31m"):
            httpx.get(f"http://{address}{path}", headers={"Authorization": "Bearer sesame"})
        with connect(f"ws://{address}/v1/play?at=sesame", proxy=None) as player:
            player.send(json.dumps({"type": "hello", "key": "sesame", "seed": 1}))
            while isinstance(message := player.recv(10), str):
                token = json.loads(message).get("token")
        assert httpx.delete(f"http://{address}/v1/sessions/{token}", headers={}).status_code == 401
        until(lambda: any("closed" in line for line in caplog.messages))
    lines = [line for name, _, line in caplog.record_tuples if name == "playloom.access"]
    for secret in ("sesame", story, token, "\n", "\x1b"):
        assert not any(secret in line for line in lines)
    assert any(re.fullmatch(r"127\.0\.0\.1 GET /v1/health 200 \d+ ms", line) for line in lines)
    assert any(re.fullmatch(r"127\.0\.0\.1 GET /v1/stories/\*/story.zip 404 \d+ ms", line) for line in lines)
    assert any(re.fullmatch(r"127\.0\.0\.1 WS /v1/play closed 1000 [1-9]\d* frames [\d.]+ s", line) for line in lines)
    assert any(re.fullmatch(r"127\.0\.0\.1 DELETE /v1/sessions/\* 401 \d+ ms", line) for line in lines)
