"""Moving pictures come back as they went in, in order, and say whose they are."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from playloom.data.prompts import find_prompt, load_prompt_file
from playloom.errors import BadInputError
from playloom.media.images import enlarge
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest
from video_toys import read_frames, read_manifest

MANIFEST = Manifest(
    model="tiny", weights="ab", seed=1, mode="world", sampling={"temperature": 0.9}, created="1970-01-01T00:00:05+00:00"
)


@pytest.fixture(scope="module")
def frames_THWC() -> np.ndarray:
    """A square that walks over a gradient."""
    across = np.linspace(0, 200, 60, dtype=np.uint8)
    frames = np.stack([np.repeat(across[None, :, None], 36, 0).repeat(3, 2)] * 6)
    for step, frame in enumerate(frames):
        frame[10:22, 8 * step : 8 * step + 12] = (255, 40, 40)
    return frames


@pytest.mark.parametrize(("write", "error"), [(write_mp4, 12), (write_gif, 4)])
def test_frames_come_back_in_order_and_nearly_the_same(tmp_path, frames_THWC, write, error):
    path = tmp_path / "new" / "animation"
    write(path, frames_THWC, manifest=MANIFEST)
    again = read_frames(path)
    assert again.shape == frames_THWC.shape and again.dtype == np.uint8
    distances = np.abs(again[:, None].astype(int) - frames_THWC[None]).mean(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == np.arange(6)).all() and np.diag(distances).max() < error
    assert read_manifest(path) == MANIFEST


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_same_frames_same_bytes(tmp_path, frames_THWC, write):
    for name in ("a", "b"):
        write(tmp_path / name, iter(frames_THWC), manifest=MANIFEST)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_gif_is_endless_and_in_real_time_unless_asked(tmp_path, frames_THWC):
    write_gif(tmp_path / "a.gif", frames_THWC)
    write_gif(tmp_path / "b.gif", frames_THWC, seconds_per_frame=0.25)
    for name, milliseconds in (("a.gif", 100), ("b.gif", 250)):
        with Image.open(tmp_path / name) as image:
            assert image.info["loop"] == 0 and image.info["duration"] == milliseconds and image.n_frames == 6
    assert read_manifest(tmp_path / "a.gif") is None


def test_a_long_film_is_the_same_bytes_whatever_lay_in_memory(tmp_path):
    """x264's macroblock tree read memory it had not written: films of soft pictures, as dreams are, differed."""
    play = load_prompt_file(find_prompt("plaza-explorer")).frames_THWC[:16]
    frames = [np.array(Image.fromarray(enlarge(frame, 2)).filter(ImageFilter.BoxBlur(6))) for frame in play]
    source, films = np.random.default_rng(0), set()
    for number in range(6):
        littered = [source.integers(0, 256, size, dtype=np.uint8) for size in source.integers(1, 9_999_999, 3)]
        del littered
        write_mp4(tmp_path / f"{number}.mp4", [frame.copy() for frame in frames])
        films.add((tmp_path / f"{number}.mp4").read_bytes())
    assert len(films) == 1


def test_equal_neighbours_in_a_gif_keep_their_time(tmp_path, frames_THWC):
    write_gif(tmp_path / "a.gif", frames_THWC[[0, 0, 0, 1]])
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"]) == (2, 300)


def test_a_gif_of_sixty_frames_is_small_enough_to_send(tmp_path):
    """Twenty frames took 1 MB: each had its own colours, so the whole of it was written again."""
    play = load_prompt_file(find_prompt("plaza-explorer")).frames_THWC
    write_gif(tmp_path / "a.gif", play)
    assert len(read_frames(tmp_path / "a.gif")) == 60 and (tmp_path / "a.gif").stat().st_size < 1_500_000


def test_an_mp4_plays_everywhere_at_ten_frames_a_second(tmp_path, frames_THWC):
    import av

    write_mp4(tmp_path / "a.mp4", frames_THWC)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, stream.average_rate, stream.frames) == ("h264", "yuv420p", 10, 6)
        assert float(stream.duration * stream.time_base) == pytest.approx(0.6)
    assert read_manifest(tmp_path / "a.mp4") is None


def test_odd_sizes_are_padded_by_one(tmp_path):
    write_mp4(tmp_path / "a.mp4", np.full((3, 17, 25, 3), 100, np.uint8))
    again = read_frames(tmp_path / "a.mp4")
    assert again.shape == (3, 18, 26, 3) and np.abs(again.astype(int) - 100).max() < 6


def test_no_frames_are_a_sentence(tmp_path):
    for write in (write_mp4, write_gif):
        with pytest.raises(BadInputError, match="no pictures"):
            write(tmp_path / "a", [])
    assert not list(tmp_path.iterdir())


def test_frames_that_stop_with_an_error_leave_nothing(tmp_path, frames_THWC):
    def broken():
        yield from frames_THWC
        raise RuntimeError("the model failed")

    for write in (write_mp4, write_gif):
        with pytest.raises(RuntimeError, match="model"):
            write(tmp_path / "a", broken())
    assert list(tmp_path.iterdir()) == []
