"""The iterating client against our own server, over a real socket, with the real tiny model."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from playloom.client import CallEvents, CallJob, Key, run_call, start_from_file
from playloom.errors import EndpointError
from playloom.media.action_table import read_actions
from playloom.media.images import read_picture
from serving_toys import score_body, served


@pytest.fixture(scope="module")
def address():
    with served(api_key="right") as (host, _):
        yield f"http://{host}/score"


@pytest.fixture
def call(address, tmp_path):
    path = tmp_path / "payload.json"
    path.write_text(json.dumps(score_body()))

    def run(out: str, steps: int = 4, key: str = "right", **changes):
        known = dict(start=start_from_file(path), endpoint=address, key=Key(key), out=tmp_path / out, upscale="none")
        return run_call(CallJob(**(known | changes), steps=steps)).folder

    return run


def pictures(folder) -> list[np.ndarray]:
    return [read_picture(path).frame_HWC for path in sorted((folder / "raw").iterdir())]


def test_a_call_of_our_server_resumes_as_if_it_had_not_stopped(call):
    straight = call("straight")
    call("pieces", steps=2)
    pieces = call("pieces", resume=True)
    assert len(pictures(straight)) == 4
    assert all(np.array_equal(a, b) for a, b in zip(pictures(straight), pictures(pieces), strict=True))
    table = read_actions(straight / "actions.csv", "named").values_SA
    assert np.array_equal(table, read_actions(pieces / "actions.csv", "named").values_SA)
    step = json.loads((straight / "steps/04.json").read_text())
    assert step["source"] == "reply" and step["schema"] == "binned" and len(step["tokens"]) > 4
    assert read_picture(straight / "raw/04.png").manifest.generator == "playloom", "kept as the server made it"


def test_with_and_without_tokens_our_server_dreams_the_same(call):
    """It knows the pictures it sent, so that its own mark never enters a dream."""
    kept, sent_bare = pictures(call("kept")), pictures(call("bare", with_tokens=False))
    assert all(np.array_equal(a, b) for a, b in zip(kept, sent_bare, strict=True))


def test_the_wrong_key(call):
    with pytest.raises(EndpointError, match="401"):
        call("wrong", key="wr0ng")


def test_several_at_once(call):
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda n: call(f"user{n}", steps=2), range(4)))
    first = pictures(folders[0])
    for folder in folders[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(first, pictures(folder), strict=True))


def test_a_payload_the_server_refuses_is_told_in_its_words(call, tmp_path, address):
    body = score_body()
    body["input_data"]["context"][0]["actions"] = [99] * 16
    (tmp_path / "bad.json").write_text(json.dumps(body))
    told: list[str] = []
    job = CallJob(start=start_from_file(tmp_path / "bad.json"), endpoint=address, key=Key("right"), out=tmp_path / "x")
    with pytest.raises(EndpointError, match=r"step 1 .* 4\d\d"):
        run_call(job, CallEvents(note=told.append))
    assert not told, "asked once"
