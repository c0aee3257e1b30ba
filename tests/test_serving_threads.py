"""Everything of the model's happens in one thread: a second one that computes would halve the speed of both."""

import json
import threading

from torch import nn

from serving_toys import client, entry, score_body


def test_whatever_users_ask_for_is_computed_in_the_brokers_thread():
    names: set[str] = set()
    with client(remembered_frames=0) as web:
        tokenizer = web.app.state.server.studio.model.tokenizer
        for module in tokenizer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_pre_hook(lambda *_: names.add(threading.current_thread().name))
        assert web.post("/score", json=score_body([entry(0), entry(1)], num_steps_to_predict=2)).status_code == 200
        assert names == {"playloom-broker"}
        assert (
            web.post("/v1/dream", json={"images": [entry(2)["image"]], "steps": 1, "mode": "full"}).status_code == 200
        )
        with web.websocket_connect("ws://127.0.0.1:5000/v1/play") as socket:
            socket.send_text(json.dumps({"type": "hello", "image": entry(3)["image"]}))
            assert socket.receive_json()["type"] == "ready"
            while "bytes" not in socket.receive():
                pass
    assert names == {"playloom-broker"}
