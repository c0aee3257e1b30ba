"""The parts of the client alone: what a reply holds, how long to wait, and a key that is never shown."""

import base64
import json
import urllib.parse

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from call_toys import ACTIONS_SA, frame, result
from playloom.actions.codec import values_to_rows
from playloom.client.endpoint import (
    Endpoint,
    Key,
    choose_action,
    find_key,
    parse_retry_after,
    printable,
    read_response,
)
from playloom.errors import BadInputError, EndpointError
from playloom.media.images import encode_png

BINNED = [float(value) for value in ACTIONS_SA[2]]
NAMED = values_to_rows(ACTIONS_SA[2], "named").tolist()
IMAGE = base64.b64encode(encode_png(frame(1))).decode()
ECHO = {"input_data": {"context": [{"image": "AAAA", "actions": [0] * 16}]}}


@pytest.mark.parametrize(
    "body",
    [
        {"results": [result(3)]},
        {"results": [result(3, actions=None)]},
        {"results": [result(3, actions=None, actions_output=None, whatever=BINNED)]},
        {"results": [{"image": IMAGE, "deep": {"er": [[BINNED]]}}, result(9)]},
        {"results": [{"image": IMAGE}], "actions": BINNED},
        {"output": {"results": [{"other": [1] * 16, "image": IMAGE, "actions_output": [2] * 16, "actions": BINNED}]}},
        {"results": [{"image": IMAGE, "tokens": [1] * 16, "a": [True] * 16, "b": ["1"] * 16, "c": BINNED}]},
        {**ECHO, "results": [{"image": IMAGE, "c": BINNED}]},
        {**ECHO, "prediction": {"image": IMAGE, "c": BINNED}},
        {"results": [{"c": BINNED, "image": f"data:image/png;base64,{IMAGE[:40]}\n{IMAGE[40:]}"}]},
        json.dumps({"results": [result(3)]}),
    ],
)
def test_the_action_is_found_wherever_it_is(body):
    reply = read_response(json.dumps(body).encode())
    assert reply.rows[0] == tuple(BINNED)
    assert reply.data.startswith(b"\x89PNG") and reply.picture.format == "PNG"
    values_A, schema = choose_action(reply.rows, "auto")
    assert (schema, values_A.tolist()) == ("binned", ACTIONS_SA[2].tolist())


@pytest.mark.parametrize(
    "row", [[0.0] * 15, [0.0] * 17, [0.0] * 15 + [None], [0.0] * 15 + [float("nan")], [10**400] * 16]
)
def test_what_is_no_list_of_sixteen_numbers_is_none(row):
    assert read_response(json.dumps({"results": [{"image": IMAGE, "actions": row}]}).encode()).rows == ()


@pytest.mark.parametrize("tokens", [None, [], [1.5], [-1], [True], "1", {"a": 1}, [[1]]])
def test_tokens_that_are_none_are_left_out(tokens):
    assert read_response(json.dumps({"results": [result(1, tokens=tokens)]}).encode()).tokens == ()


def test_both_schemas_and_neither():
    for schema, row in (("binned", BINNED), ("named", NAMED)):
        for asked in ("auto", schema):
            values_A, found = choose_action((tuple(row),), asked)
            assert found == schema and np.array_equal(values_A, ACTIONS_SA[2])
    assert choose_action(((77.0,) * 16,), "auto") is None
    assert choose_action((tuple(NAMED),), "binned") is None
    values_A, _ = choose_action(((77.0,) * 16, tuple(BINNED)), "auto")
    assert np.array_equal(values_A, ACTIONS_SA[2]), "the next list that is an action"


def test_a_row_that_fits_both_schemas_is_read_as_the_one_before():
    both = ((0.0,) * 16,)  # named: at rest; binned: both sticks in the lower left corner
    assert choose_action(both, "auto")[1] == "named"
    assert choose_action(both, "auto", "binned")[1] == "binned"
    assert choose_action((tuple(NAMED),), "auto", "binned")[1] == "named", "unless it does not fit"


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(key=KEYS, around=st.text(max_size=20))
def test_a_key_is_hidden_in_every_form_it_is_written(key, around):
    assume(key.lower() != "bearer" and "*" not in key)
    secret = Key(f"  {key}\n")
    assert secret.header() == {"Authorization": f"Bearer {key}"}
    for form in (key, json.dumps({"k": key}), f"/?k={urllib.parse.quote(key, safe='')}", f"Bearer {key}"):
        assert key not in secret.redact(around + form).replace(around, "")
    assert key not in (repr(secret) + str(secret)) or key in "Key(hidden)"


def test_a_key_shows_itself_nowhere():
    key = Key("Bearer s3cret-KEY")
    assert key.header() == {"Authorization": "Bearer s3cret-KEY"}
    with Endpoint("http://127.0.0.1:1/s3cret-KEY/score", key) as endpoint:
        assert "s3cret" not in f"{key} {key!r} {[key]} {endpoint.shown}"
    with Endpoint("http://127.0.0.1:1/score", key) as endpoint:
        assert "s3cret" not in f"{endpoint!r} {vars(endpoint)}"
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize(
    "text", ["", "  ", "Bearer ", "two words", "sch\N{LATIN SMALL LETTER O WITH DIAERESIS}n", "a\nb"]
)
def test_keys_that_cannot_be_sent(text):
    with pytest.raises(BadInputError) as caught:
        Key(text)
    assert not text.strip() or text == "Bearer " or text not in str(caught.value)


def test_where_the_key_comes_from():
    environment = {"MUSE_API_KEY": "muse", "PLAYLOOM_API_KEY": "loom"}
    sent = [
        find_key("flag", environment, lambda: "asked"),
        find_key(None, environment, lambda: "asked"),
        find_key(None, {"MUSE_API_KEY": " ", "PLAYLOOM_API_KEY": "loom"}, lambda: "asked"),
        find_key(None, {}, lambda: "asked"),
    ]
    names = [key.header()["Authorization"].split()[1] for key in sent]
    assert names == ["flag", "muse", "loom", "asked"]
    assert find_key(None, {}, lambda: "") is None and find_key(None, {}) is None


def test_retry_after_is_a_number_of_seconds():
    assert [parse_retry_after(text) for text in ("1.5", "-3", "", "soon", "nan", "inf")] == [1.5, 0, 0, 0, 0, 0]


def test_an_address_without_a_path_means_score():
    for address, shown in {
        "http://127.0.0.1:5000": "http://127.0.0.1:5000/score",
        "https://x.example/v2/?code=secret": "https://x.example/v2/",
    }.items():
        with Endpoint(address) as endpoint:
            assert endpoint.shown == shown


def test_a_proxy_that_cannot_be_used_is_a_sentence(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "ftp://127.0.0.1:1")
    with pytest.raises(BadInputError, match=r"proxy .* ALL_PROXY"):
        Endpoint("https://muse.example")
    with Endpoint("http://127.0.0.1:5000"):
        pass


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "..example"])
def test_a_host_name_that_cannot_be_is_a_sentence(host):
    with Endpoint(f"http://{host}/score", retries=0) as endpoint, pytest.raises(EndpointError, match="request to http"):
        endpoint.send({})


def test_a_key_over_http_is_warned_of_beyond_this_machine():
    cases = {
        "http://muse.example": True,
        "https://muse.example": False,
        "http://localhost": False,
        "http://[::1]:5000": False,
    }
    for address, open_to_readers in cases.items():
        with Endpoint(address, Key("k")) as endpoint:
            assert endpoint.exposes_key is open_to_readers
        with Endpoint(address) as endpoint:
            assert not endpoint.exposes_key


def test_what_is_shown_cannot_steer_a_terminal():
    assert printable("a\x1b[2J\r\nb\u202ec", 50) == "a [2J b c"
