"""The arenas without the engine: layouts, map text, textures, archive, ways, and the plan of recordings."""

from __future__ import annotations

import io
import re
import struct
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from playloom.errors import ConfigError
from playloom.games.arena import textures
from playloom.games.arena.maps import CELL, VARIANTS, Variant, arena_wad, free_cells, pwad_bytes, variant_of
from playloom.games.bots.navigation import _SQUARE, Navigation, cell_centre
from playloom.games.bots.players import HELDOUT_STYLE, STYLES
from playloom.games.recorder import plan_episode

every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def path_cost(navigation, start, goal):
    """Cost of the shortest path in map units; infinite without one."""
    return navigation._distances(navigation.nearest(goal))[navigation.nearest(start)] * _SQUARE


def read_pwad(data: bytes) -> list[tuple[str, bytes]]:
    """The lumps of an archive, as `pwad_bytes` takes them."""
    kind, count, start = struct.unpack_from("<4sii", data)
    assert kind == b"PWAD" and start + 16 * count == len(data)
    entries = struct.iter_unpack("<ii8s", data[start:])
    return [(name.rstrip(b"\0").decode(), data[offset : offset + size]) for offset, size, name in entries]


def blocks(variant: Variant) -> dict[str, list[dict[str, str]]]:
    """The map's blocks by kind, each as its fields."""
    text = dict(read_pwad(arena_wad(variant)))["TEXTMAP"].decode()
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for kind, body in re.findall(r"(\w+)\{([^}]*)\}", text):
        found[kind].append(dict(field.split("=") for field in body.rstrip(";").split(";")))
    return found


def test_an_archive_is_read_as_it_was_written() -> None:
    lumps = [("MAP01", b""), ("TEXTMAP", b"words"), ("ENDMAP", b"")]
    assert read_pwad(pwad_bytes(lumps)) == lumps


@every_variant
def test_a_layout_is_a_rectangle_with_a_zone_everywhere(variant: Variant) -> None:
    columns, rows = variant.size
    assert {len(row) for row in variant.grid} == {columns}
    assert {variant.zone(x, y) for x in range(columns) for y in range(rows)} >= {"sand", "sea", "leaf", "rose"}


@every_variant
def test_every_place_is_reached_from_every_other(variant: Variant) -> None:
    navigation = Navigation(variant)
    start = cell_centre(*free_cells(variant)[0])
    for cell in free_cells(variant):
        assert np.isfinite(path_cost(navigation, cell_centre(*cell), start)), cell


@every_variant
def test_steps_are_low_enough_to_climb(variant: Variant) -> None:
    heights = {".": 0, "a": 16, "b": 24, "~": -20}
    free = set(free_cells(variant))
    for x, y in free:
        for other in ((x + 1, y), (x, y + 1)):
            if other in free:
                between = abs(heights[variant.cell(x, y)] - heights[variant.cell(*other)])
                assert between <= 24 or "~" in (variant.cell(x, y), variant.cell(*other)), (x, y, other)


@every_variant
def test_items_lie_where_one_can_pick_them_up(variant: Variant) -> None:
    for name, column, row in variant.items:
        # A coordinate of a half lies on the line between two cells: one of them is enough.
        around = {(int(column + x), int(row + y)) for x in (0.4, 0.6) for y in (0.4, 0.6)}
        assert any(variant.cell(*cell) in ".ab~" for cell in around), name


@every_variant
def test_the_map_text_is_sound(variant: Variant) -> None:
    found = blocks(variant)
    assert len({(v["x"], v["y"]) for v in found["vertex"]}) == len(found["vertex"])
    used = Counter(side for line in found["linedef"] for side in (line["sidefront"], line.get("sideback")) if side)
    assert set(used.values()) == {1} and len(used) == len(found["sidedef"])
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for line in found["linedef"]:
        assert line["v1"] != line["v2"]
        assert ("sideback" in line) == (line.get("twosided") == "true")
        sides = {found["sidedef"][int(line[key])]["sector"] for key in ("sidefront", "sideback") if key in line}
        for sector in sides:
            ends[sector].update((line["v1"], line["v2"]))
    assert len(ends) == len(found["sector"])
    for sector, corners in ends.items():
        assert all(count % 2 == 0 for count in corners.values()), f"sector {sector} is not closed"


@every_variant
def test_gates_are_used_from_outside(variant: Variant) -> None:
    found = blocks(variant)
    gates = [line for line in found["linedef"] if line.get("special")]
    assert len(gates) == 4 * sum(row.count("G") for row in variant.grid)
    for line in gates:
        behind = found["sector"][int(found["sidedef"][int(line["sideback"])]["sector"])]
        assert behind["id"] == line["arg0"]


@every_variant
def test_every_texture_named_is_ours(variant: Variant) -> None:
    found = blocks(variant)
    named = {side[f"texture{part}"] for side in found["sidedef"] for part in ("top", "middle", "bottom")}
    named |= {sector["texturefloor"] for sector in found["sector"]}
    lumps = {name for name, _ in read_pwad(arena_wad(variant))}
    assert {name.strip('"') for name in named} - {"-"} <= lumps


def test_the_archive_is_the_same_every_time() -> None:
    assert arena_wad(VARIANTS["plaza"]) == arena_wad(VARIANTS["plaza"])


def test_textures_are_flat_and_told_apart() -> None:
    pictures = {name: np.array(Image.open(io.BytesIO(data))) for name, data in textures.all_textures().items()}
    for name, picture in pictures.items():
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) <= (16 if name == textures.SKY_NAME else 2), name
    walls = [pictures[textures.texture_name("W", zone)].mean((0, 1)) for zone in textures._ZONES]
    between = [np.abs(a - b).max() for i, a in enumerate(walls) for b in walls[:i]]
    assert min(between) > 30


def test_the_sky_is_a_compass() -> None:
    sky = textures.sky().astype(float)
    assert sky.shape == (textures.SKY_HEIGHT, textures.SKY_WIDTH, 3)
    for start in range(0, textures.SKY_WIDTH, 64):
        turned = np.abs(sky - np.roll(sky, -start, axis=1)).mean()
        assert (turned == 0) if start == 0 else (turned > 10), start


def test_the_wall_stops_the_way_and_the_view() -> None:
    navigation = Navigation(VARIANTS["plaza"])
    west, east = cell_centre(1, 2), cell_centre(4, 2)
    assert not navigation.visible(west, east) and navigation.visible(west, cell_centre(1, 9))
    first = navigation.next_waypoint(west, east)
    assert first is not None and navigation.clear_line(west, first)
    assert path_cost(navigation, west, east) > 3 * CELL


def test_walking_from_spot_to_spot_arrives() -> None:
    navigation = Navigation(VARIANTS["court"])
    here, goal = cell_centre(0, 0), cell_centre(11, 12)
    for _ in range(30):
        spot = navigation.next_waypoint(here, goal)
        if spot is None:
            break
        here = spot
    assert abs(here[0] - goal[0]) < CELL / 2 and abs(here[1] - goal[1]) < CELL / 2


def test_splits_keep_their_promise() -> None:
    plans = [plan_episode(seed) for seed in range(400)]
    assert Counter(plan.split for plan in plans) == {"train": 340, "validation": 20, "test": 20, "heldout": 20}
    for plan in plans:
        unknown = VARIANTS[plan.variant].heldout or plan.style == HELDOUT_STYLE
        assert unknown == (plan.split == "heldout")
    for split in ("train", "validation", "test"):
        mine = [plan for plan in plans if plan.split == split]
        assert {plan.style for plan in mine} == set(STYLES) - {HELDOUT_STYLE}
        assert {plan.mode for plan in mine} == {"ffa", "4v4"}
        assert {plan.variant for plan in mine} == {v.name for v in VARIANTS.values() if not v.heldout}
    heldout = {(plan.variant, plan.style) for plan in plans if plan.split == "heldout"}
    assert {style for _, style in heldout} > {HELDOUT_STYLE} and {"canyon"} < {variant for variant, _ in heldout}


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match="plaza"):
        variant_of("plazza")
    with pytest.raises(ConfigError, match="seed"):
        plan_episode(-1)
