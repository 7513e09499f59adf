"""Pictures of what the world model sees: real, reconstructed and imagined frames of a task, and an evaluation episode.

In: uint8 frames [T, H, W, 3]. Out: PNG and GIF files, every frame enlarged by a whole factor with nearest neighbour.
Called by page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from mow_jax import files

QUIET, ACCENT = (122, 133, 146), (217, 101, 31)  # both can be read on white and on black
BAR, LIGHT, WARM = (38, 44, 52), (228, 232, 237), (240, 137, 74)  # above films, which cannot be transparent
COLUMNS = 8  # frames in a PNG
LABEL, HEADER, GAP = 118, 24, 4  # pixels: width of the row labels, height of the column labels, space between frames
LONGEST = 400  # frames of an episode's GIF; of a longer episode every n-th is shown
FONT = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def enlarge(frame: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W, 3] repeated to about `pixels` on its longer side, never made smaller."""
    factor = max(1, round(pixels / max(frame.shape[:2])))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def _pale(frame: np.ndarray) -> np.ndarray:
    """The frame faded towards white: shown where the model was still given real frames."""
    return (255 - (255 - frame.astype(np.int32)) // 4).astype(np.uint8)


def rows(real: np.ndarray, reconstructed: np.ndarray, imagined: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """{row label: [T, H, W, 3]}; imagined: the real frames, faded, up to `start`, then the model's."""
    own = imagined[len(imagined) - max(len(real) - start, 0) :]
    return {"real": real, "reconstructed": reconstructed, "imagined": np.concatenate([_pale(real[:start]), own])}


def strip(frames: dict[str, np.ndarray], start: int, path: Path) -> None:
    """A PNG without a ground: one row a kind, `COLUMNS` moments across; a line stands where imagination begins."""
    length = min(map(len, frames.values()))
    moments = np.unique(np.linspace(0, length - 1, min(COLUMNS, length)).round().astype(int))
    height, width = enlarge(frames["real"][0], 128).shape[:2]
    size = (LABEL + len(moments) * (width + GAP), HEADER + len(frames) * (height + GAP))
    sheet = Image.new("RGBA", size, (0, 0, 0, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(FONT, 14)
    for column, moment in enumerate(moments):
        left = LABEL + column * (width + GAP)
        draw.text((left + width / 2, HEADER / 2), _moment(moment, start), QUIET, font, anchor="mm")
        for row, kind in enumerate(frames.values()):
            sheet.paste(Image.fromarray(enlarge(kind[moment], 128)), (left, HEADER + row * (height + GAP)))
    for row, label in enumerate(frames):
        draw.text((LABEL - 8, HEADER + row * (height + GAP) + height / 2), label, QUIET, font, anchor="rm")
    first = int(np.searchsorted(moments, start))
    if 0 < first < len(moments):
        left = LABEL + first * (width + GAP) - GAP
        draw.rectangle((left, HEADER + 2 * (height + GAP), left + GAP - 1, sheet.height - GAP), ACCENT)
    with files.whole(path) as temporary:
        sheet.save(temporary)


def _moment(moment: int, start: int) -> str:
    return f"context −{start - moment}" if moment < start else f"+{moment - start + 1}"


def strip_gif(frames: dict[str, np.ndarray], start: int, path: Path) -> None:
    """A GIF of the whole window: real, reconstructed and imagined side by side."""
    font = ImageFont.truetype(FONT, 14)
    _save([_side_by_side(frames, moment, start, font) for moment in range(min(map(len, frames.values())))], 120, path)


def _side_by_side(frames: dict[str, np.ndarray], moment: int, start: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    pictures = [enlarge(kind[moment], 192) for kind in frames.values()]
    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + HEADER), BAR)
    draw = ImageDraw.Draw(sheet)
    for number, (label, picture) in enumerate(zip(frames, pictures, strict=True)):
        left = number * (width + GAP)
        sheet.paste(Image.fromarray(picture), (left, HEADER))
        text = f"{label} {_moment(moment, start)}" if label == "imagined" else label
        colour = WARM if label == "imagined" and moment >= start else LIGHT
        draw.text((left + width / 2, HEADER / 2), text, colour, font, anchor="mm")
    return sheet


def episode_gif(frames: np.ndarray, path: Path) -> int:
    """A GIF of an episode's frames [N, H, W, 3]; returns n where only every n-th frame is shown."""
    every = -(-len(frames) // LONGEST)
    _save([Image.fromarray(enlarge(frame, 192)) for frame in frames[::every]], 60, path)
    return every


def _save(pictures: list[Image.Image], milliseconds: int, path: Path) -> None:
    with files.whole(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
