"""`POST /score`: the hosted endpoint's format, its meaning, and invalid requests."""

import base64
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt
from playloom.media.images import read_picture
from playloom.provenance import Manifest, stamp
from playloom.server.service import SentImageCache
from serving_toys import FORWARD, REST, b64, client, entry, error_of, picture, score_body


@pytest.fixture(scope="module")
def web():
    with client(max_steps=6, body_bytes=2_000_000) as found:
        yield found


def test_the_least_recently_used_picture_is_forgotten():
    cache, codes = SentImageCache(2), np.zeros(3, np.int64)
    frames = [np.full((2, 2, 3), value, np.uint8) for value in range(3)]
    made = Manifest(model="tiny", weights="", seed=0, mode="full", sampling={})
    for index in (0, 1, 0, 2):
        cache.keep(frames[index], codes, made)
    assert [cache.find(frame)[1] is not None for frame in frames] == [True, False, True]


def results(web, body):
    response = web.post("/score", json=body)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def service(web):
    return web.app.state.server.service


def test_a_reply_holds_everything_a_client_looks_for(web):
    found = results(web, score_body(num_steps_to_predict=3))
    model = service(web).model
    assert len(found) == 3
    for number, result in enumerate(found, 1):
        assert list(result) == ["image", "actions", "actions_output", "tokens"]
        assert len(result["actions"]) == len(result["actions_output"]) == 16
        assert all(isinstance(value, int) for value in result["actions"])
        assert len(result["tokens"]) == model.config.layout.grid_height * model.config.layout.grid_width
        read = read_picture(base64.b64decode(result["image"]))
        assert read.frame_HWC.shape[:2] == service(web).size
        assert (read.manifest.model, read.manifest.step, read.manifest.seed) == (model.config.name, number, 7)
        (frame_HWC,) = service(web).engine.frames(np.array(result["tokens"])[None])
        assert (stamp(frame_HWC) == read.frame_HWC).all(), "the picture is that of its tokens, visibly marked"


def test_the_last_action_closes_its_step_and_each_result_carries_the_next_one(web):
    engine = service(web).engine
    frames = [read_picture(picture(seed)).frame_HWC for seed in (0, 1)]
    height, width = service(web).size
    fitted = np.stack([np.array(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames])
    prompt = Prompt(frames_THWC=fitted, actions_TA=np.array([REST], np.uint8))
    with_session = engine.open(prompt, sampling=Sampling(temperature=0.9, top_p=1.0), seed=7)
    first = with_session.step(np.array(FORWARD, np.uint8))
    second = with_session.step()
    third = with_session.step(frame=None)
    body = score_body([entry(0, actions=REST), entry(1, actions=FORWARD)], num_steps_to_predict=2)
    found = results(web, body)
    assert found[0]["tokens"] == first.codes_N.tolist()
    assert found[0]["actions"] == second.action_A.tolist()
    assert found[1]["tokens"] == second.codes_N.tolist()
    assert found[1]["actions"] == third.action_A.tolist()


NAMED = [0, -1, 0, 0, 0, 0.9] + [0] * 10
STICKS = [0, 1] + [0] * 10 + [0, 1, 0, 0]
BINNED = [0, 1] + [0] * 10 + [5, 10, 5, 5]


@pytest.mark.parametrize(
    ("vector", "extra"),
    [(NAMED, {}), (NAMED, {"schema": "named"}), (BINNED, {"schema": "binned"}), (STICKS, {"schema": "sticks"})],
)
def test_actions_come_in_every_form(web, vector, extra):
    (expected,) = results(web, score_body([entry(actions=BINNED)]))
    (found,) = results(web, score_body([entry(actions=vector)], **extra))
    assert (found["tokens"], found["actions"]) == (expected["tokens"], expected["actions"])


def test_actions_output_stands_in_for_missing_actions_and_the_last_step_may_have_none(web):
    expected = results(web, score_body([entry(actions=BINNED), entry(1)]))[0]["tokens"]
    assert results(web, score_body([entry(actions=[], actions_output=BINNED), entry(1)]))[0]["tokens"] == expected
    without = {"image": b64(picture(3))}
    assert len(results(web, score_body([entry(0), without]))) == 1
    assert "context entry 0" in error_of(web.post("/score", json=score_body([without, entry(1)])))


def test_a_picture_sent_back_goes_on_from_its_tokens_without_its_mark(web):
    """What iterating clients do: the reply's picture without tokens. The same as with tokens, so nothing drifts."""
    context = [entry(0), entry(1)]
    step = results(web, score_body(context))[0]
    back = {"image": step["image"], "actions": step["actions"]}
    with_tokens = results(web, score_body([*context, {**back, "tokens": step["tokens"]}]))
    without = results(web, score_body([*context, {**back, "tokens": []}]))
    assert without[0]["tokens"] == with_tokens[0]["tokens"]


def test_tokens_take_the_place_of_the_picture(web):
    codes = [1] * len(results(web, score_body())[0]["tokens"])
    one, other = (results(web, score_body([entry(seed, tokens=codes)]))[0]["tokens"] for seed in (0, 1))
    assert one == other


def test_only_the_last_ten_of_a_hundred_entries_count(web):
    last = [entry(seed) for seed in range(10)]
    early = [{"image": "never looked at", "actions": REST}] * 90
    assert results(web, score_body(early + last))[0]["tokens"] == results(web, score_body(last))[0]["tokens"]


def test_pictures_of_any_size_png_or_jpeg(web):
    for size, kind in (((1, 1), "PNG"), ((480, 640), "JPEG"), ((7, 900), "PNG")):
        assert len(results(web, score_body([entry(image=b64(picture(0, size, kind)))]))) == 1
    url = "data:image/png;base64," + b64(picture())
    assert results(web, score_body([entry(image=url)]))[0]["tokens"] == results(web, score_body([entry()]))[0]["tokens"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_the_body_is_json_whatever_its_content_type(web, kind):
    """`curl -d` sends a form's content type."""
    answer = web.post("/score", content=json.dumps(score_body()), headers={"content-type": kind})
    assert answer.json()["results"][0]["tokens"] == results(web, score_body())[0]["tokens"]


def test_sampling_keys_come_as_numbers_as_strings_or_not_at_all(web):
    number = results(web, score_body(temperature=0.5, top_p=0.9, top_k=3))
    text = results(web, score_body(temperature="0.5", top_p="0.9", top_k="3"))
    assert [r["tokens"] for r in number] == [r["tokens"] for r in text]
    bare = {"input_data": {"context": [entry()], "top_p": None, "top_k": "none"}}
    assert len(results(web, bare)) == 1
    greedy = [results(web, score_body(temperature=0, seed=seed))[0]["tokens"] for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def bomb() -> bytes:
    """A PNG of a few bytes that says it has ten thousand million pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def vector(**changes):
    row = list(REST)
    for index, value in changes.items():
        row[int(index[1:])] = value
    return row


BAD = {
    "no context": ({"input_data": {"num_steps_to_predict": 1}}, "context"),
    "empty context": (score_body([]), "context"),
    "too many entries": (score_body([{"image": ""}] * 101), "100"),
    "not an object": ([], ""),
    "no steps": (score_body(num_steps_to_predict=0), "num_steps_to_predict"),
    "too many steps": (score_body(num_steps_to_predict=7), "at most 6"),
    "steps no number": (score_body(num_steps_to_predict="many"), "num_steps_to_predict"),
    "half an image": (score_body([entry(image=b64(picture())[:-5])]), "base64"),
    "half a picture": (score_body([entry(image=b64(picture()[:60]))]), "damaged"),
    "no picture": (score_body([entry(image=b64(b"GIF89a" + bytes(50)))]), "neither a PNG nor a JPEG"),
    "a zip": (score_body([entry(image=b64(b"PK\x03\x04" + bytes(50)))]), "neither a PNG nor a JPEG"),
    "a bomb": (score_body([entry(image=b64(bomb()))]), "too large"),
    "not ascii": (score_body([entry(image="🂡")]), "base64"),
    "fifteen actions": (score_body([entry(actions=REST[:15])]), "15 numbers"),
    "seventeen actions": (score_body([entry(actions=[*REST, 0])]), "17 numbers"),
    "an action of two": (score_body([entry(actions=vector(_0=2))]), "expected"),
    "a bin of eleven": (score_body([entry(actions=vector(_12=11))]), ""),
    "a huge action": (score_body([entry(actions=vector(_12=1e300))]), ""),
    "words for actions": (score_body([entry(actions=["forward"] * 16)]), "actions"),
    "nested actions": (score_body([entry(actions=[[0]] * 16)]), "actions"),
    "too few tokens": (score_body([entry(tokens=[1, 2])]), "tokens"),
    "tokens out of range": (score_body([entry(tokens=[10**6] * 8)]), "tokens"),
    "negative tokens": (score_body([entry(tokens=[-1] * 8)]), "tokens"),
    "hot": (score_body(temperature=-1), "temperature"),
    "top_p of two": (score_body(top_p=2), "top_p"),
    "top_k of none": (score_body(top_k=0), "top_k"),
    "a huge seed": (score_body(seed=2**64), "seed"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_request_gets_400(web, name):
    body, expected = BAD[name]
    response = web.post("/score", content=json.dumps(body))
    assert response.status_code == 400
    assert expected in error_of(response)


RAW = {
    "nothing": (b"", 400),
    "no JSON": (b"hello", 400),
    "cut short": (json.dumps(score_body()).encode()[:-3], 400),
    "not UTF-8": (b'{"input_data": "\xff\xfe"}', 400),
    "half a surrogate": (b'{"input_data": {"context": [{"image": "\\ud800"}]}}', 400),
    "NaN": (json.dumps(score_body([entry(actions=vector(_12=float("nan")))])).encode(), 400),
    "infinity": (json.dumps(score_body([entry(actions=vector(_12=float("inf")))])).encode(), 400),
    "past every float": (json.dumps(score_body()).encode().replace(b"0.9", b"1e999"), 400),
    "a number of a million digits": (b'{"input_data": ' + b"1" * 10**6 + b"}", 400),
    "deep": (b"[" * 3999, 400),
    "deeper": (b"[" * 100_000, 413),
    "a million entries": (b'{"input_data":{"context":[' + b"{}," * 600_000 + b"{}]}}", 413),
    "a million numbers": (b'{"input_data":{"context":[' + b"0," * 990_000 + b"0]}}", 400),
    "too large": (b" " * 2_000_001, 413),
}


@pytest.mark.parametrize("name", RAW)
def test_an_invalid_body_is_refused(web, name):
    body, status = RAW[name]
    response = web.post("/score", content=body)
    assert response.status_code == status
    error_of(response)


def test_json_past_the_limits_of_the_parser_is_a_sentence(web):
    for body in (b"[" * 3999, b'{"input_data": ' + b"1" * 10**6 + b"}"):
        assert "not JSON that can be read" in error_of(web.post("/score", content=body))


def test_it_still_answers(web):
    assert len(results(web, score_body())) == 1
    assert web.get("/v1/health").json()["status"] == "ok"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_subnormal=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ROWS = st.lists(st.floats(allow_subnormal=False) | st.integers(-2, 12), min_size=14, max_size=18) | st.just(REST) | JSON
ENTRIES = st.fixed_dictionaries(
    {"image": st.just(b64(picture())) | st.text(max_size=30) | st.binary(max_size=60).map(b64)},
    optional={"actions": ROWS, "actions_output": ROWS, "tokens": JSON | st.lists(st.integers(-1, 20), max_size=40)},
)
BODIES = st.fixed_dictionaries(
    {"context": st.lists(ENTRIES, max_size=3)},
    optional={
        "num_steps_to_predict": st.integers(-1, 3) | JSON,
        "temperature": JSON,
        "top_p": JSON,
        "top_k": JSON,
        "seed": JSON,
        "schema": st.sampled_from(["auto", "named", "binned", "sticks"]) | JSON,
    },
)


@settings(max_examples=60)
@given(body=BODIES.map(lambda found: {"input_data": found}) | JSON)
def test_no_body_breaks_it(web, body):
    response = web.post("/score", content=json.dumps(body))
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        error_of(response)


@settings(max_examples=40)
@given(body=st.binary(max_size=200))
def test_no_bytes_break_it(web, body):
    response = web.post("/score", content=body)
    assert response.status_code == 400
    error_of(response)
