"""The model runs in one thread: two threads that compute would slow each other down."""

import json
import threading

import httpx
from torch import nn
from websockets.sync.client import connect

from serving_toys import entry, score_body, served


def test_the_model_runs_in_the_scheduler_s_thread_only():
    names: set[str] = set()
    with served(token_cache_size=0, backend="torch") as (address, app):
        for module in app.state.server.service.model.tokenizer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_pre_hook(lambda *_: names.add(threading.current_thread().name))
        score = score_body([entry(0), entry(1)], num_steps_to_predict=2)
        assert httpx.post(f"http://{address}/score", json=score, timeout=30).status_code == 200
        assert names == {"playloom-scheduler"}
        order = {"images": [entry(2)["image"]], "steps": 1, "mode": "full"}
        assert httpx.post(f"http://{address}/v1/dream", json=order, timeout=30).status_code == 200
        with connect(f"ws://{address}/v1/play", proxy=None) as socket:
            socket.send(json.dumps({"type": "hello", "image": entry(3)["image"]}))
            assert json.loads(socket.recv(20))["type"] == "opening"
            while not isinstance(socket.recv(20), bytes):
                pass
    assert names == {"playloom-scheduler"}
