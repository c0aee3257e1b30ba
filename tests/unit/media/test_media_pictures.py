"""Any picture comes in at the right size, with a word on what was done; what goes out is signed."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from playloom.errors import PictureError
from playloom.media.images import (
    MAX_PIXELS,
    encode_png,
    enlarge,
    fit_picture,
    read_picture,
    write_picture,
)
from playloom.provenance import Manifest, stamp

MANIFEST = Manifest(model="tiny", weights="ab", seed=1, mode="world")


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (36, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_the_usual_kinds_are_read_from_paths_and_bytes(tmp_path, kind):
    flat = np.full((36, 60, 3), (200, 30, 90), np.uint8)
    path = tmp_path / "picture"  # the kind is in the file, not in its name
    Image.fromarray(flat).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    for source in (path, str(path), path.read_bytes()):
        picture = read_picture(source)
        assert picture.frame_HWC.dtype == np.uint8 and picture.notes == () and picture.manifest is None
        assert np.abs(picture.frame_HWC.astype(int) - flat).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_goes_on_black_and_is_said(tmp_path, mode):
    """A plain convert("RGB") shows whatever colour hides below full transparency."""
    image = Image.new("RGBA", (4, 2), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 2, 2))
    image.convert(mode).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.notes == ("its transparency was put on black",)
    assert (picture.frame_HWC[:, :2] == 255).all() and (picture.frame_HWC[:, 2:] == 0).all()


def test_grey_sixteen_bit_and_four_ink_pictures(tmp_path):
    deep = (np.arange(256, dtype=np.uint16) * 256).reshape(16, 16)
    for options in ({}, {"transparency": 7}):
        Image.fromarray(deep).save(tmp_path / "deep.png", **options)
        assert (read_picture(tmp_path / "deep.png").frame_HWC[..., 1] == (deep >> 8)).all()
    Image.new("L", (3, 3), 77).save(tmp_path / "grey.png")
    assert (read_picture(tmp_path / "grey.png").frame_HWC == 77).all()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    red = read_picture(tmp_path / "ink.jpg").frame_HWC[0, 0]
    assert red[0] > 200 and red[1] < 60


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").frame_HWC.shape == (40, 20, 3)


def test_of_a_moving_picture_the_first_is_taken(tmp_path):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    picture = read_picture(tmp_path / "a.gif")
    assert "only the first" in picture.notes[0] and picture.frame_HWC[0, 0].tolist() == [255, 0, 0]


def _huge_png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def test_what_cannot_be_used_is_one_sentence_with_the_name(tmp_path, frame):
    whole = encode_png(frame)
    cases = {
        "cut.png": (whole[: len(whole) // 2], "damaged or cut short"),
        "bent.png": (whole[:60] + bytes(200) + whole[260:], "damaged or cut short"),
        "text.png": (b"hello", "not a picture"),
        "empty.png": (b"", "not a picture"),
        "bomb.png": (_huge_png(), "too large"),
    }
    for name, (data, says) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PictureError, match=says) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(PictureError, match="no picture"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(PictureError, match=r"cannot be read .*directory"):
        read_picture(tmp_path)
    with pytest.raises(PictureError, match="frame 3"):
        read_picture(b"hello", name="frame 3")


def test_a_picture_just_over_the_limit_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (MAX_PIXELS // 5_000 + 1, 5_000)).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match="10001 x 5000"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_is_never_a_traceback(frame, seed):
    random = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, ["PNG", "JPEG", "WEBP", "GIF", "TIFF"][seed % 5])
    data = bytearray(buffer.getvalue())
    for position in random.integers(0, len(data), 8):
        data[position] = random.integers(0, 256)
    try:
        assert read_picture(bytes(data)).frame_HWC.ndim == 3
    except PictureError as error:
        assert "\n" not in str(error)


def test_fitting_keeps_the_middle_and_says_so(frame):
    wide = np.zeros((180, 400, 3), np.uint8)
    wide[:, 50:350] = 255
    fitted, note = fit_picture(wide, (180, 300))
    assert fitted.shape == (180, 300, 3) and (fitted == 255).all()
    assert note == "centre-cropped from 400 x 180 to 300 x 180, then resized to 300 x 180"
    boxed, note = fit_picture(wide, (180, 300), "letterbox")
    assert note == "resized from 400 x 180 to 300 x 180 with black bars around 300 x 135"
    assert (boxed[:22] == 0).all() and (boxed[-22:] == 0).all() and boxed[90, 150, 0] == 255
    bigger, note = fit_picture(frame, (180, 300))
    assert bigger.shape == (180, 300, 3) and note == "resized from 60 x 36 to 300 x 180"
    same, note = fit_picture(frame, (36, 60), "letterbox")
    assert note is None and np.array_equal(same, frame)
    for fit in ("crop", "letterbox"):
        assert fit_picture(np.zeros((1, 999, 3), np.uint8), (18, 30), fit)[0].shape == (18, 30, 3)
    with pytest.raises(PictureError, match="letterbox"):
        fit_picture(frame, (18, 30), "leterbox")


def test_a_generated_picture_is_marked_and_says_whose_it_is(tmp_path, frame):
    before = frame.copy()
    write_picture(tmp_path / "a.png", stamp(frame), MANIFEST.at_step(4))
    picture = read_picture(tmp_path / "a.png")
    assert picture.manifest == MANIFEST.at_step(4)
    assert np.array_equal(picture.frame_HWC, stamp(frame)) and not np.array_equal(picture.frame_HWC, frame)
    assert np.array_equal(frame, before)


def test_a_real_picture_is_written_as_it_is(tmp_path, frame):
    write_picture(tmp_path / "a.png", frame)
    picture = read_picture(tmp_path / "a.png")
    assert picture.manifest is None and np.array_equal(picture.frame_HWC, frame)


def test_same_picture_same_bytes(frame):
    assert encode_png(frame, MANIFEST) == encode_png(frame.copy(), MANIFEST)


def test_somebody_elses_text_under_our_key_does_not_stop_the_picture(tmp_path, frame):
    info = PngImagePlugin.PngInfo()
    info.add_text("playloom", "hello")
    Image.fromarray(frame).save(tmp_path / "a.png", pnginfo=info)
    assert read_picture(tmp_path / "a.png").manifest is None


def test_enlarging_four_times(frame):
    large = enlarge(np.full((4, 6, 3), 9, np.uint8), 4)
    assert large.shape == (16, 24, 3) and (large == 9).all()
