"""Stories without a server: the tree, storage, overlays and exports."""

import io
import os
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from playloom.atomic_io import atomic_write
from playloom.data.prompts import load_prompt
from playloom.errors import BadInputError, PictureError, RecordingError, StorageError
from playloom.media.action_table import read_actions
from playloom.media.clips import read_npz
from playloom.media.images import read_picture
from playloom.provenance import Manifest, stamp
from playloom.server.stories.schemas import Branch, Header, Removed, StoryInfo, Tree, from_line, to_line
from playloom.server.stories.service import composite, read_overlay
from playloom.server.stories.store import LOG, StoryStore, export_path, load_path, write_story
from stories_toys import CREATED, ONE, REST, SIZE, begun, frame, node
from video_toys import read_frames, read_manifest

MADE = Manifest(model="tiny", weights="ab12", seed=7, mode="world", parent="00")


def branch(number, start, **changes):
    known = {"frames": 5, "seed": 3, "temperature": 0.9, "top_k": None, "top_p": 0.5, "context": 10}
    return Branch(**{"id": number, "from": start, "controlled_by": "player", **known, **changes})


def changed(model, **update):
    return model.model_copy(update=update)


def tree_of(*changes):
    tree = Tree()
    for change in (Header(name="a", created=CREATED, size=SIZE), *changes):
        tree.apply(change)
    return tree


def forked():
    """0 - 1 - 2 given; 3 - 4 dreamed on from 2 by branch 0, 5 - 6 by branch 1."""
    return tree_of(
        node(0, None),
        node(1, 0),
        node(2, 1),
        branch(0, 2, state="dreaming"),
        branch(1, 2, state="done"),
        node(3, 2, origin="dreamed", branch=0),
        node(4, 3, origin="dreamed", branch=0),
        node(5, 2, origin="dreamed", branch=1),
        node(6, 5, origin="dreamed", branch=1),
    )


# The tree


def test_paths_and_descendants():
    tree = forked()
    assert [n.id for n in tree.path(6)] == [0, 1, 2, 5, 6]
    assert tree.descendants(2) == [2, 3, 4, 5, 6]
    assert [n.id for n in tree.forward_path(1, None, 3)] == [2, 3, 4]
    assert [n.id for n in tree.forward_path(1, 6, 3)] == [2, 5, 6]
    assert tree.forward_path(4, None, 0) == []
    with pytest.raises(BadInputError, match="too few"):
        tree.forward_path(2, None, 3)
    with pytest.raises(BadInputError, match="too few"):
        tree.forward_path(2, 5, 2)
    with pytest.raises(BadInputError, match="toward"):
        tree.forward_path(3, 6, 1)
    with pytest.raises(BadInputError, match="frame 9"):
        tree.path(9)


def test_a_removal_includes_descendants_and_branches_and_ids_are_not_reused():
    tree = forked()
    assert tree.removal(6) == Removed(nodes=(6,), branches=())
    tree.apply(branch(2, 1, state="failed", error="no room"))  # has no frames, and starts before the removed ones
    assert tree.removal(5) == Removed(nodes=(5, 6), branches=(1,))
    for busy in (2, 3, 4):
        with pytest.raises(BadInputError, match="branch 0"):
            tree.removal(busy)
    tree.apply(changed(tree.branches[0], state="cancelled"))
    removal = tree.removal(2)
    tree.apply(changed(removal, nodes=removal.nodes * 2))  # as a damaged log may have it
    assert sorted(tree.nodes) == [0, 1]
    assert list(tree.branches) == [2]
    assert (tree.header.next_node, tree.header.next_branch) == (7, 3)
    with pytest.raises(BadInputError, match="delete"):
        tree.removal(0)


def test_one_of_two_roots_can_be_removed_but_not_the_last():
    tree = tree_of(node(0, None), node(1, 0), node(2, None, origin="edited", edit_of=0))
    assert tree.removal(0).nodes == (0, 1)
    tree.apply(tree.removal(0))
    with pytest.raises(BadInputError, match="begins"):
        tree.removal(2)


@pytest.mark.parametrize(
    "change",
    [
        node(9, 8),
        node(3, 5, origin="dreamed", branch=0),
        branch(5, 77),
        Removed(nodes=(88,), branches=()),
        Removed(nodes=(5,), branches=()),
        Header(name="b", created=CREATED, revision=2),
    ],
)
def test_a_contradicting_change_is_refused_and_changes_nothing(change):
    tree, same = forked(), forked()
    with pytest.raises(RecordingError):
        tree.apply(change)
    assert (tree.nodes, tree.branches, tree.header) == (same.nodes, same.branches, same.header)


@given(st.lists(st.tuples(st.sampled_from(["node", "star", "branch", "end", "remove", "name"]), st.integers(0, 50))))
@settings(deadline=None, max_examples=60)
def test_a_tree_is_restored_from_its_log(story):
    begun = [Header(name="a", created=CREATED, size=SIZE), node(0, None)]
    tree, again = tree_of(begun[1]), Tree()
    lines = [to_line(change) for change in begun]
    for kind, pick in story:
        at = sorted(tree.nodes)[pick % len(tree.nodes)]
        known = list(tree.branches.values())
        if kind == "node":
            change = node(tree.header.next_node, at, origin="dreamed")
        elif kind == "star":
            change = changed(tree.nodes[at], starred=not tree.nodes[at].starred, note=f"é\n{pick}")
        elif kind == "branch":
            change = branch(tree.header.next_branch, at)
        elif kind == "end" and known:
            change = changed(known[pick % len(known)], state="failed", error="it broke")
        elif kind == "remove" and at and not tree.active_branches():
            change = tree.removal(at)
        else:
            change = tree.renamed(f"name {pick}")
        tree.apply(change)
        lines.append(to_line(change))
    for line in lines:
        again.apply(from_line(line.encode()))
    assert (again.header, again.nodes, again.branches) == (tree.header, tree.nodes, tree.branches)


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"node": {}}', b'{"node": 3}', b"\xff", b'{"else": {}}', b'{"removed": {"nodes": [-1]}}']
    + [
        to_line(node(1, 0)).replace('"given"', '"found"').encode(),
        to_line(node(1, 0)).encode()[:-1],
        to_line(node(1, 0)).replace('"action":[', '"action":[999,').encode(),
        to_line(changed(node(1, 0), action=(256, *REST[1:]))).encode(),
        to_line(changed(node(1, 0), action=REST[1:])).encode(),
        to_line(node(1, 0)).replace("false", "0").encode(),
        to_line(Header(name="a", created=CREATED)).replace("[0,0]", "[0]").encode(),
        to_line(branch(0, 2)).replace('"controlled_by"', '"presses"').encode(),
        to_line(branch(0, 2)).replace("0.9", "NaN").encode(),
        b"[" * 100_000,
    ],
)
def test_invalid_log_lines_are_refused(line):
    with pytest.raises(RecordingError):
        from_line(line)


def test_a_branch_of_an_older_log_is_read():
    line = (
        b'{"branch": {"id": 0, "start": 2, "frames": 5, "state": "done", "error": null, "seed": 3, "temperature": 1,'
        b' "top_k": null, "top_p": 0.5, "context": 10, "controlled_by": "player"}}'
    )
    assert from_line(line) == branch(0, 2, state="done", temperature=1.0)
    assert '"from":2' in to_line(from_line(line))


# On disk


@pytest.fixture
def store(tmp_path):
    return StoryStore(tmp_path / "stories")


WHOLE, BROKEN = "b" * 32, "a" * 32


def grown(directory, count=4):
    """A branch of so many frames after the last one; returns the tree."""
    tree = directory.load()
    number, last = tree.header.next_branch, max(tree.nodes)
    changes, frames = [branch(number, last, state="done")], []
    for index in range(count):
        made = node(last + 1 + index, last + index, origin="dreamed", branch=number, action_source="player")
        frames.append(frame(made.id, MADE.at_step(index + 1)))
        changes.append(made)
    directory.append(changes, frames)
    return directory.load()


def test_a_story_is_read_back_exactly(store):
    directory = begun(store)
    tree = grown(directory)
    assert sorted(tree.nodes) == list(range(7))
    assert tree.header.size == SIZE
    for number in (1, 5):
        back, sent = directory.read_frame(number), frame(number, MADE.at_step(number - 2) if number > 2 else None)
        assert (back.frame_HWC == sent.frame_HWC).all()
        assert (back.codes_N == sent.codes_N).all()
        assert (back.weights, back.manifest) == (sent.weights, sent.manifest)
    (again,) = StoryStore(store.folder).directories() if os.name != "posix" else store.directories()
    assert again.folder.name == ONE


def test_only_generated_frames_are_watermarked(store):
    directory = begun(store)
    grown(directory)
    real, dreamed = read_picture(directory.read_frame(1).png()), read_picture(directory.read_frame(4).png())
    assert real.manifest is None
    assert (real.frame_HWC == frame(1).frame_HWC).all()
    assert dreamed.manifest == MADE.at_step(2)
    assert (dreamed.frame_HWC == stamp(frame(4).frame_HWC)).all()
    with Image.open(directory.thumbnail(4)) as image:
        assert image.size == SIZE[::-1]
        assert Manifest.from_json(image.info["xmp"].decode()) == MADE.at_step(2)


def test_an_incomplete_last_line_is_dropped(store):
    directory = begun(store)
    tree = directory.load()
    with (directory.folder / LOG).open("ab") as file:
        file.write(to_line(node(3, 2)).encode()[:-9])
    again = directory.load()
    assert again.nodes == tree.nodes
    directory.append([node(3, 2)], [frame(3)])
    assert sorted(directory.load().nodes) == [0, 1, 2, 3]


def test_a_full_disk_leaves_the_log_unchanged(store, monkeypatch):
    directory = begun(store)
    before = (directory.folder / LOG).read_bytes()

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[:5])
            raise OSError(28, "No space left on device")

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, "a") if mode == "ab" else real(path, mode))
    with pytest.raises(StorageError):
        directory.append([node(3, 2)])
    assert (directory.folder / LOG).read_bytes() == before


def test_a_damaged_story_does_not_affect_others(store):
    begun(store, WHOLE)
    broken = begun(store, BROKEN)
    log = broken.folder / LOG
    log.write_bytes(log.read_bytes().replace(b'"origin"', b'"or\xffgin"', 1))
    with pytest.raises(RecordingError, match="damaged"):
        broken.load()
    log.write_bytes(b"")
    with pytest.raises(RecordingError, match="header"):
        broken.load()
    assert [directory.folder.name for directory in store.directories()] == [BROKEN, WHOLE]
    whole = store.directories()[1]
    assert len(whole.load().nodes) == 3
    whole.thumbnail(1).unlink()
    (whole.folder / "1.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(RecordingError, match="frame 1"):
        whole.read_frame(1)
    whole.read_frame(2)


def test_other_folders_are_ignored(store):
    begun(store)
    run = store.folder / "run-1"  # a training has a log of that name too
    run.mkdir()
    (run / LOG).write_text('{"step": 1, "loss": 2.5}\n')
    assert [directory.folder.name for directory in store.directories()] == [ONE]


def test_a_file_that_cannot_be_removed_is_skipped(store):
    directory = begun(store)
    (directory.folder / "1.npz").unlink()
    (directory.folder / "1.npz").mkdir()
    directory.append([Removed(nodes=(1, 2), branches=())])
    assert not directory.thumbnail(1).exists()
    assert not directory.thumbnail(2).exists()


def test_deletion_and_leftovers_of_a_killed_process(store):
    directory = begun(store)
    store.delete(directory)
    assert store.directories() == []
    for name in (f".{'a' * 32}.gone", f".{'b' * 32}.0123abcd.tmp", ".git", "notes"):
        (store.folder / name).mkdir()
    assert store.directories() == []
    assert sorted(path.name for path in store.folder.iterdir()) == [".git", "notes"]
    again = begun(store)
    with suppress(KeyboardInterrupt), atomic_write(again.folder / "7.npz") as temporary:
        temporary.write_bytes(b"half")
        kept = temporary.rename(again.folder / "kept")
        raise KeyboardInterrupt
    kept.rename(temporary)  # as a kill leaves it
    store.directories()
    assert not temporary.exists()
    assert len(again.load().nodes) == 3


@pytest.mark.skipif(os.name != "posix", reason="folders are claimed where the system can")
def test_a_folder_is_locked_for_one_server(store):
    begun(store)
    other = StoryStore(store.folder)
    with pytest.raises(BadInputError, match="another server"):
        other.directories()
    store.close()
    assert len(other.directories()) == 1


def test_the_folder_is_created_with_the_first_story(tmp_path):
    store = StoryStore(tmp_path / "stories")
    assert store.directories() == []
    assert not (tmp_path / "stories").exists()


# Overlays


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_overlay_is_composited_by_its_alpha():
    below, layer = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8, 4), np.uint8)
    layer[0, 0], layer[1, 1] = (200, 0, 50, 255), (200, 0, 50, 51)
    mixed = composite(below, read_overlay(png(layer), (8, 8)))
    assert mixed[0, 0].tolist() == [200, 0, 50]
    assert mixed[1, 1].tolist() == [120, 80, 90]
    assert (mixed[2:] == 100).all()
    assert (below == 100).all()


def test_an_overlay_of_another_size_is_resized_without_dark_edges():
    layer = np.zeros((80, 80, 4), np.uint8)
    layer[:, :40] = (255, 255, 255, 255)
    mixed = composite(np.full((8, 8, 3), 255, np.uint8), read_overlay(png(layer), (8, 8)))
    assert (mixed >= 254).all()


@pytest.mark.parametrize(
    "data", [b"", b"no picture", png(frame(0).frame_HWC)[:999], png(np.zeros((8, 8, 4), np.uint8))]
)
def test_invalid_overlays(data):
    with pytest.raises(PictureError, match="overlay"):
        read_overlay(data, (8, 8))


# Exports


@pytest.fixture
def clip(store):
    directory = begun(store)
    tree = grown(directory)
    return load_path(directory, tree.path(6))


def saved(tmp_path, clip, kind):
    path = tmp_path / f"path.{kind}"
    path.write_bytes(export_path(clip, kind))
    return path


def test_video_and_gif_hold_the_whole_path_and_its_manifest(tmp_path, clip):
    for kind in ("mp4", "gif"):
        path = saved(tmp_path, clip, kind)
        assert read_frames(path).shape == (7, 48, 80, 3)
        made = read_manifest(path)
        assert (made.seed, made.step, made.note) == (7, None, "generated")


def test_csv_and_npz_exports_can_be_read_again(tmp_path, clip):
    table = read_actions(saved(tmp_path, clip, "csv"), "named")
    assert table.values_SA.tolist() == [list(REST)] * 4
    prompt = load_prompt(str(saved(tmp_path, clip, "npz")), context=5, frame_size=SIZE)
    assert (prompt.frames_THWC == np.stack([f.frame_HWC for f in clip.frames[2:]])).all()
    assert (prompt.codes_TN == np.stack([f.codes_N for f in clip.frames[2:]])).all()
    assert prompt.dreamed_T.tolist() == [False, True, True, True, True]
    assert prompt.weights == "ab12"


def test_the_zip_export_is_the_folder_of_playloom_dream(tmp_path, clip):
    with zipfile.ZipFile(saved(tmp_path, clip, "zip")) as archive:
        names = archive.namelist()
        assert {"dream.gif", "dream.mp4", "dream.npz", "actions.csv", "sheet.png", "manifest.json"} <= set(names)
        assert sorted(name for name in names if name.startswith("raw/")) == [f"raw/0{i}.png" for i in range(1, 5)]
        assert read_picture(archive.read("raw/02.png")).manifest.step == 2


def test_the_manifest_of_a_path_of_several_branches(store):
    directory = begun(store)
    tree = grown(directory)
    last = frame(7, replace(MADE, seed=8, mode="full", note="generated, then edited by hand"))
    directory.append([node(7, 6, origin="edited", edit_of=6)], [last])
    made = load_path(directory, directory.load().path(7)).manifest
    assert (made.mode, made.seed) == ("full", 8)
    assert made.note == "generated, a path of several branches, with frames edited by hand"
    assert len(tree.nodes) == 7


def test_codes_of_mixed_weights_are_not_exported(tmp_path, store):
    directory = begun(store, frames=1)
    for number, parent, manifest in ((1, None, None), (2, 1, MADE)):  # dreamed by one model, edited under another
        made = replace(frame(number, manifest), weights="cd34")
        directory.append([node(number, parent, origin="edited", edit_of=number - 1)], [made])
    clip = load_path(directory, directory.load().path(2))
    prompt = load_prompt(str(saved(tmp_path, clip, "npz")), context=5, frame_size=SIZE)
    assert clip.manifest.weights == "ab12"
    assert prompt.codes_TN is None


def test_a_real_path_exports_as_video_only(tmp_path, store):
    clip = load_path(begun(store), [node(0, None), node(1, 0)])
    path = saved(tmp_path, clip, "mp4")
    assert read_manifest(path) is None
    for kind in ("csv", "npz", "zip"):
        with pytest.raises(BadInputError, match="frame 1"):
            export_path(clip, kind)


def test_a_whole_story_as_a_zip(tmp_path, store):
    directory = begun(store)
    tree, file = grown(directory), io.BytesIO()
    info = StoryInfo(
        id=ONE, name="one", created=CREATED, context=4, model="tiny", nodes=tree.nodes.values(), branches=()
    )
    write_story(file, directory, info)
    with zipfile.ZipFile(file) as archive:
        assert StoryInfo.model_validate_json(archive.read("story.json")) == info
        assert read_picture(archive.read("pictures/0005.png")).manifest == MADE.at_step(3)
        (tmp_path / "codes.npz").write_bytes(archive.read("codes.npz"))
    arrays = read_npz(tmp_path / "codes.npz", ("ids", "parents", "actions", "codes", "weights"))
    assert arrays["parents"].tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert arrays["codes"].shape == (7, 15)
