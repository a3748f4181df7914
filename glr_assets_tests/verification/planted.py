"""Pictures of traps: what different photographs may have in common without showing the same thing.

Also what true pairs look like: two photographs made of one. Photographs are RGB uint8 [H, W, 3].
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from glr_assets.seeded import derived_seed

Pixels = npt.NDArray[np.uint8]
SIDE: Final = 384
"""The smaller side of a stored image."""


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on `parts` alone."""
    return np.random.default_rng(derived_seed("planted", *parts))


def stored(photo: Pixels, quality: int = 70) -> Pixels:
    """The photograph as it comes back from the store: its smaller side at most `SIDE`, through JPEG."""
    image = Image.fromarray(photo)
    scale = SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    image.save(target, "JPEG", quality=quality)
    with Image.open(io.BytesIO(target.getvalue())) as read:
        return np.asarray(read.convert("RGB"))


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(8, round(size)))


def strip(photo: Pixels, text: str = "www.travel-pictures.example  No. 2417-B", share: float = 0.09) -> Pixels:
    """A bar along the bottom, `share` of the height, with a text and a logo."""
    image = Image.fromarray(photo)
    draw = ImageDraw.Draw(image)
    height = max(16, round(image.height * share))
    top = image.height - height
    draw.rectangle((0, top, image.width, image.height), fill=(20, 24, 60))
    font = _font(min(height * 0.6, image.width / (0.62 * len(text))))
    draw.text((height * 1.4, top + height * 0.18), text, fill=(245, 240, 220), font=font)
    _logo(draw, (height * 0.6, top + height * 0.5), height * 0.4)
    return np.asarray(image)


def _logo(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, alpha: int = 255) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(255, 190, 40, alpha), width=2)
    corners = [(x - radius * 0.6, y + radius * 0.5), (x, y - radius * 0.8), (x + radius * 0.6, y + radius * 0.5)]
    draw.polygon(corners, fill=(240, 80, 60, alpha))


def _laid_over(photo: Pixels, layer: Image.Image) -> Pixels:
    base = Image.fromarray(photo).convert("RGBA")
    return np.asarray(Image.alpha_composite(base, layer).convert("RGB"))


def across(photo: Pixels, text: str = "© Stock-Images.example", opacity: float = 0.55, turn: float = 25) -> Pixels:
    """A half transparent text through the middle, turned by `turn` degrees."""
    height, width = photo.shape[:2]
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    font = _font(1.35 * width / len(text))
    alpha = round(255 * opacity)
    draw.text((width / 2, height / 2), text, fill=(255, 255, 255, alpha), font=font, anchor="mm", stroke_width=1)
    return _laid_over(photo, layer.rotate(turn, Image.Resampling.BICUBIC))


def tiled(photo: Pixels, word: str = "sample", opacity: float = 0.5, step: float = 0.22) -> Pixels:
    """A half transparent logo and word repeated over all of it, `step` of the smaller side apart."""
    height, width = photo.shape[:2]
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    apart = step * min(width, height)
    alpha = round(255 * opacity)
    for row in range(int(height / apart) + 1):
        for column in range(int(width / apart) + 1):
            x, y = (column + 0.5 * (row % 2)) * apart, row * apart
            _logo(draw, (x + apart * 0.2, y + apart * 0.3), apart * 0.15, alpha)
            draw.text((x + apart * 0.4, y + apart * 0.2), word, fill=(255, 255, 255, alpha), font=_font(apart * 0.2))
    return _laid_over(photo, layer)


def framed(photo: Pixels, share: float = 0.11, pattern: int = 0) -> Pixels:
    """A carved frame all round, `share` of the smaller side wide, the photograph whole inside."""
    height, width = photo.shape[:2]
    band = round(share * min(height, width))
    random = generator("frame", pattern)
    out = Image.new("RGB", (width, height), (122, 84, 44))
    draw = ImageDraw.Draw(out)
    for _ in range(260):
        x, y = random.uniform(0, width), random.uniform(0, height)
        r = random.uniform(0.12, 0.4) * band
        shade = tuple(int(v) for v in random.integers(40, 235, 3))
        kind = random.integers(3)
        if kind == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=shade)
        elif kind == 1:
            draw.rectangle((x - r, y - r / 2, x + r, y + r / 2), fill=shade)
        else:
            draw.polygon([(x - r, y + r), (x, y - r), (x + r, y + r / 2)], fill=shade)
    inside = Image.fromarray(photo).resize((width - 2 * band, height - 2 * band), Image.Resampling.LANCZOS)
    out.paste(inside, (band, band))
    return np.asarray(out)


def stamped(photo: Pixels, text: str = "2007/08/14 16:32:05", size: float = 0.075) -> Pixels:
    """A camera's time stamp, in orange digits at the lower right, `size` of the height."""
    image = Image.fromarray(photo)
    draw = ImageDraw.Draw(image)
    place = (image.width * 0.97, image.height * 0.96)
    font = _font(image.height * size)
    draw.text(place, text, fill=(255, 140, 0), font=font, anchor="rs", stroke_width=1, stroke_fill=(120, 40, 0))
    return np.asarray(image)


def calendar(photo: Pixels, month: str = "JUNE", first: int = 2, size: tuple[int, int] = (384, 512)) -> Pixels:
    """A page of a calendar: the photograph above, the days of a month below; `first` is its first weekday."""
    width, height = size
    page = Image.new("RGB", size, (250, 248, 240))
    upper = round(height * 0.52)
    page.paste(Image.fromarray(photo).resize((width, upper), Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(page)
    draw.text((width * 0.06, upper + height * 0.01), month, fill=(160, 20, 20), font=_font(height * 0.05))
    across_, down = width * 0.9 / 7, (height * 0.90 - upper) / 7
    for column, name in enumerate(("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")):
        place = (width * 0.06 + column * across_, upper + height * 0.075)
        draw.text(place, name, fill=(20, 20, 20), font=_font(height * 0.03))
    for day in range(30):
        row, column = divmod(day + first, 7)
        place = (width * 0.06 + column * across_, upper + height * 0.115 + row * down)
        draw.text(place, str(day + 1), fill=(30, 30, 90), font=_font(height * 0.034))
    return np.asarray(page)


def banknote(
    portrait: Pixels,
    serial: str,
    oval: tuple[float, float, float, float] = (0.3, 0.16, 0.7, 0.86),
    size: tuple[int, int] = (832, 384),
) -> Pixels:
    """The scan of a banknote: engraved lines, numerals, a number of its own, and a picture in an oval.

    The oval's left, top, right and foot are shares of the note.
    """
    width, height = size
    note = Image.new("RGB", size, (214, 224, 204))
    draw = ImageDraw.Draw(note)
    t = np.linspace(0, 2 * np.pi, 900)
    for number in range(14):
        for cx, cy in ((0.16, 0.32), (0.84, 0.66), (0.5, 0.5)):
            r = (0.05 + 0.011 * number) * width * (1 + 0.18 * np.sin((7 + number % 3) * t + number))
            x, y = cx * width + r * np.cos(t), cy * height + 0.7 * r * np.sin(t)
            shade = (60 + 5 * number, 110 - 2 * number, 90)
            draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=shade, width=1)
    for x, y in ((0.03, 0.05), (0.88, 0.05), (0.03, 0.80), (0.88, 0.80)):
        draw.text((x * width, y * height), "50", fill=(30, 70, 50), font=_font(height * 0.15))
    draw.text((0.30 * width, 0.04 * height), "BANK OF NOWHERE", fill=(30, 70, 50), font=_font(height * 0.085))
    draw.text((0.33 * width, 0.88 * height), "FIFTY FLORINS", fill=(30, 70, 50), font=_font(height * 0.085))
    draw.text((0.70 * width, 0.30 * height), serial, fill=(150, 30, 30), font=_font(height * 0.06))
    left, top, right, foot = (round(v * side) for v, side in zip(oval, (width, height) * 2, strict=True))
    picture = Image.fromarray(portrait).resize((right - left, foot - top), Image.Resampling.LANCZOS)
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((0, 0, picture.width - 1, picture.height - 1), fill=255)
    note.paste(picture, (left, top), mask)
    return np.asarray(note)


def _scaled(photo: Pixels, scale: float) -> Pixels:
    image = Image.fromarray(photo)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _cropped(photo: Pixels, left: float, top: float, right: float, bottom: float) -> Pixels:
    height, width = photo.shape[:2]
    return photo[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]


Trap = Callable[[Pixels, Pixels], tuple[Pixels, Pixels]]

#: Each makes of two photographs of different things a pair that agrees for the wrong reason. A tiled logo that is cut
#: elsewhere in one of them is not among these: nothing tells it from a facade's windows.
TRAPS: Final[dict[str, Trap]] = {
    "strip": lambda one, other: (strip(one), strip(other)),
    "strip of another size": lambda one, other: (strip(one), strip(_scaled(other, 0.75))),
    "strip cropped": lambda one, other: (strip(one), _cropped(strip(other), 0.0, 0.15, 0.93, 1.0)),
    "text across": lambda one, other: (across(one, turn=0), across(other, turn=0)),
    "text turned": lambda one, other: (across(one), across(other)),
    "text of another size": lambda one, other: (across(one), across(_scaled(other, 0.75))),
    "tiled logo": lambda one, other: (tiled(one), tiled(other)),
    "frame": lambda one, other: (framed(one), framed(_fitted(other, one.shape[1], one.shape[0]))),
    "narrow frame": lambda one, other: (
        framed(one, 0.06),
        framed(_fitted(other, one.shape[1], one.shape[0]), 0.06),
    ),
    "time stamp": lambda one, other: (stamped(one), stamped(other)),
    "time stamp of another minute": lambda one, other: (
        stamped(one, "2007/08/14 16:32:05"),
        stamped(other, "2007/08/14 16:38:41"),
    ),
    "calendar": lambda one, other: (calendar(one), calendar(other)),
    "calendar of another month": lambda one, other: (calendar(one), calendar(other, "JULY", 2)),
    "calendar of another size": lambda one, other: (calendar(one), calendar(other, size=(420, 600))),
    "banknote of another picture": lambda one, other: (
        banknote(one, "AK 3051728 C"),
        banknote(other, "BX 9946310 F"),
    ),
}


def _fitted(photo: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))


def _brighter(photo: Pixels) -> Pixels:
    image = ImageEnhance.Brightness(Image.fromarray(photo)).enhance(1.35)
    return np.asarray(ImageEnhance.Contrast(image).enhance(0.8))


def _afar(photo: Pixels, ground: Pixels, share: float, left: float, top: float) -> Pixels:
    """The photograph, its edges faded, `share` as large on `ground`, at a place told in shares of what is free."""
    height, width = ground.shape[:2]
    scale = share * min(width / photo.shape[1], height / photo.shape[0])
    small = _scaled(photo, scale)
    x, y = round(left * (width - small.shape[1])), round(top * (height - small.shape[0]))
    rows, columns = np.mgrid[-1 : 1 : small.shape[0] * 1j, -1 : 1 : small.shape[1] * 1j]
    fade = np.clip(4 * (1 - np.hypot(rows, columns)), 0, 1)[..., None]
    out = ground.copy()
    region = out[y : y + small.shape[0], x : x + small.shape[1]]
    out[y : y + small.shape[0], x : x + small.shape[1]] = (fade * small + (1 - fade) * region).astype(np.uint8)
    return out


def _tower(photo: Pixels, ground: Pixels, left: float, tall: float = 0.92) -> Pixels:
    """A thin upright piece of the photograph, from its middle, `tall` of the height of `ground`, before it."""
    height, width = ground.shape[:2]
    piece = _fitted(_cropped(photo, 0.41, 0.0, 0.59, 1.0), round(width * 0.2 * tall), round(height * tall))
    out = ground.copy()
    x = round(left * (width - piece.shape[1]))
    out[height - piece.shape[0] :, x : x + piece.shape[1]] = piece
    return out


def _rotated(photo: Pixels, turn: float) -> Pixels:
    height, width = photo.shape[:2]
    model = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
    return np.asarray(cv2.warpAffine(photo, model, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def _viewed(photo: Pixels, by: float = 0.08) -> Pixels:
    """Seen a little from the side: one edge nearer by that share of the width."""
    height, width = photo.shape[:2]
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    moved = corners + np.array([(by, 0.6 * by), (-0.2 * by, 0.0), (-0.2 * by, 0.0), (by, -0.6 * by)]) * (width, height)
    model = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    seen = cv2.warpPerspective(photo, model, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(seen, (width, round(height * (1 + 0.3 * by)))), np.uint8)


def _tripod(photo: Pixels, other: Pixels) -> tuple[Pixels, Pixels]:
    """One view twice: in another light, and with something else before it."""
    height, width = photo.shape[:2]
    later = _brighter(photo).copy()
    passer = _fitted(other, round(width * 0.3), round(height * 0.4))
    later[height - passer.shape[0] :, : passer.shape[1]] = passer
    return photo, later


#: Each makes of a photograph, and of another that may stand behind it, a pair that shows the same thing.
TRUE_PAIRS: Final[dict[str, Trap]] = {
    "the same": lambda one, other: (one, one),
    "compressed": lambda one, other: (one, stored(one, 30)),
    "brighter": lambda one, other: (one, _brighter(one)),
    "smaller": lambda one, other: (one, _scaled(one, 0.6)),
    "cropped": lambda one, other: (one, _cropped(one, 0.12, 0.1, 0.95, 0.92)),
    "tripod": _tripod,
    "nearer": lambda one, other: (one, _fitted(_cropped(one, 0.25, 0.2, 0.8, 0.75), one.shape[1], one.shape[0])),
    "afar": lambda one, other: (one, _afar(_viewed(one), other, 0.55, 0.5, 0.7)),
    "afar at the edge": lambda one, other: (one, _afar(_viewed(one), other, 0.5, 1.0, 1.0)),
    "afar in both": lambda one, other: (
        _afar(one, other, 0.5, 0.2, 0.6),
        _afar(_viewed(one), other[:, ::-1], 0.4, 0.8, 0.4),
    ),
    "side by side": lambda one, other: (
        _cropped(one, 0.0, 0.0, 0.65, 1.0),
        _viewed(_cropped(one, 0.35, 0.0, 1.0, 1.0), 0.04),
    ),
    "one above the other": lambda one, other: (
        _cropped(one, 0.0, 0.0, 1.0, 0.65),
        _viewed(_cropped(one, 0.0, 0.35, 1.0, 1.0), 0.04),
    ),
    "a tower": lambda one, other: (_tower(one, other, 0.4), _tower(_viewed(one, 0.04), other[:, ::-1], 0.55, 0.8)),
    "a tower moved": lambda one, other: (_tower(one, other, 0.2), _tower(_viewed(one, 0.04), other[:, ::-1], 0.7, 0.8)),
    "turned": lambda one, other: (one, _rotated(one, 15)),
    "from the side": lambda one, other: (one, _viewed(one)),
}
