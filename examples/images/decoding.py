"""Image files of any kind as square RGB bytes."""

import concurrent.futures
import sys

import keras
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_THREADS = 4  # PIL decodes outside of Python's lock
_AHEAD = 64  # images from one step of the bar to the next


def decode_image(path, size):
    """Return the centre of an image, scaled to `size` pixels, as uint8 (size, size, 3).

    Turned as its camera says; grey, palettes, CMYK and 16 bits become RGB of 8 bits, transparent
    parts white. Of several frames, the first.

    Raises:
        ValueError: for pixels in floating point, whose range nobody knows.
        Exception: whatever PIL raises for files that it cannot read.
    """
    with Image.open(path) as image:
        image.draft(None, (2 * size, 2 * size))  # of a large JPEG, decode no more than is needed
        turned = ImageOps.exif_transpose(image)
        rgb = _to_rgb(turned)
        return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC))


def _to_rgb(image):
    if image.mode == "F":
        raise ValueError("its pixels are in floating point; save it with 8 bits")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype("float64") / 257.0  # 65535 becomes 255
        image = Image.fromarray(np.clip(np.round(deep), 0, 255).astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def explain(error):
    """Return why an image could not be read, in words for who took it."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "too large to be a photo"
    if isinstance(error, ValueError):
        return str(error)
    return f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def decode_images(paths, size):
    """Decode files, some at a time, with a bar on a terminal.

    Args:
        paths: list of them.
        size: as for `decode_image`.

    Returns:
        A list, in the order of `paths`, of uint8 (size, size, 3), or of texts that say why not.
    """

    def decode(path):
        try:
            return decode_image(path, size)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever a damaged file makes of them
            return explain(error)

    found = []
    bar = keras.utils.Progbar(len(paths), verbose=int(sys.stdout.isatty()), unit_name="image")
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _AHEAD):
            found += pool.map(decode, paths[start : start + _AHEAD])
            bar.update(len(found))
    return found
