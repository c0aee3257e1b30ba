"""The load on a server: the real server, the real client, at toy size; counts that must add up, no speeds."""

import json

import pytest

from playloom.benchmarks.live_load import play_together
from playloom.benchmarks.server_process import server_process
from playloom.benchmarks.service import Load, service
from playloom.benchmarks.settings import BenchSettings
from playloom.errors import PlayloomError


def test_a_small_load_gives_every_row():
    load = Load(users=(1, 2), requests=2, players=(1,), seconds=1.0, memory=(4, 8), context=1, held=1)
    report = service(BenchSettings(threads=1), load)
    cases = {row.case for row in report.rows}
    assert cases == {"score 1", "score 2", "live 1", "memory"}
    assert all(row.value is not None and row.value > 0 for row in report.rows if row.name != "grown by")
    assert json.loads(report.line())["kind"] == "service"


def test_a_group_the_server_has_no_room_for_costs_no_other_row(monkeypatch):
    monkeypatch.setattr("playloom.benchmarks.server_process._ROOMY", {"PLAYLOOM_MAX_SESSIONS": "1"})
    load = Load(users=(1,), requests=2, players=(2,), seconds=0.5, memory=(4, 8), context=1, held=1)
    rows = {row.case: row for row in service(BenchSettings(threads=1), load).rows}
    assert rows["live 2"].value is None and "turned a player away" in rows["live 2"].note
    assert rows["score 1"].value and "memory" in rows  # whose player may find the seat still kept


def test_a_player_the_server_has_no_room_for_is_a_sentence(monkeypatch):
    monkeypatch.setattr("playloom.benchmarks.server_process._ROOMY", {"PLAYLOOM_MAX_SESSIONS": "1"})
    with server_process(None, 1) as server, pytest.raises(PlayloomError, match="turned a player away"):
        play_together(server.address, 2, seconds=0.5)


def test_a_server_that_does_not_start_says_why():
    with pytest.raises(PlayloomError, match=r"did not start: .*no-such-model"), server_process("no-such-model", 1):
        pass
