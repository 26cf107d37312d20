"""All pictures of a data set on one page, with their names, sizes and what is odd about them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dreambooth_resume.data.images import decode_rgb
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.data_check import CheckedPicture, DataCheck

MOST_PICTURES = 240
"""More would make a page that no viewer likes; the first ones are shown."""
_COLUMNS, _SIDE, _GAP, _LINE = 6, 200, 16, 18
_INK, _GREY, _RED, _PAPER = (20, 20, 20), (110, 110, 110), (180, 20, 20), (255, 255, 255)


def write_contact_sheet(check: DataCheck, path: Path) -> int:
    """Write the page as a new PNG file; returns how many pictures are on it.

    Raises BadInput for a file that is there already, or would lie among the pictures and be trained on.
    """
    folders = {picture.parent.resolve() for picture in check.files.values()}
    if path.parent.resolve() in folders or path.parent.resolve() == Path(check.source).resolve():
        raise BadInput(
            "would lie among the pictures, and be trained on with them",
            where=f"--contact-sheet {path}",
            fix="name a file in another folder",
        )
    if path.suffix.lower() != ".png":
        raise BadInput("is no name of a PNG file", where=f"--contact-sheet {path}", fix="let it end in .png")
    sheet = draw_contact_sheet(check)
    try:
        with path.open("xb") as file:
            sheet.save(file, "PNG")
    except FileExistsError:
        raise BadInput(
            "is there already, and would be overwritten",
            where=f"--contact-sheet {path}",
            fix="give another name, or remove it first",
        ) from None
    except OSError as error:
        raise BadInput(
            f"can't be written: {error.strerror}",
            where=f"--contact-sheet {path}",
            fix="give a file in a folder that you may write to",
        ) from None
    return min(len(check.pictures), MOST_PICTURES)


def draw_contact_sheet(check: DataCheck) -> Image.Image:
    """The page: thumbnails as they are trained on (upright, on white), in rows of six."""
    shown = check.pictures[:MOST_PICTURES]
    rows = -(-len(shown) // _COLUMNS)
    height = _SIDE + 3 * _LINE + _GAP
    columns = min(len(shown), _COLUMNS)
    sheet = Image.new("RGB", (columns * (_SIDE + _GAP) + _GAP, rows * height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, picture in enumerate(shown):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_SIDE + _GAP), _GAP + row * height
        thumbnail = decode_rgb(check.files[picture.name].read_bytes())
        thumbnail.thumbnail((_SIDE, _SIDE))
        sheet.paste(thumbnail, (left + (_SIDE - thumbnail.width) // 2, top + (_SIDE - thumbnail.height) // 2))
        draw.rectangle((left - 1, top - 1, left + _SIDE, top + _SIDE), outline=_RED if picture.notes else _GREY)
        for line, (text, ink) in enumerate(_lines(picture)):
            draw.text((left, top + _SIDE + 3 + line * _LINE), _cut(text, font), fill=ink, font=font)
    return sheet


def _lines(picture: CheckedPicture) -> list[tuple[str, tuple[int, int, int]]]:
    times = f"  {picture.times} times" if picture.times > 1 else ""
    return [
        (picture.name, _INK),
        (f"{picture.width} x {picture.height} to {picture.shape}{times}", _GREY),
        (", ".join(picture.notes), _RED),
    ]


def _cut(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The end of a text says more than its beginning: names differ there."""
    if font.getlength(text) <= _SIDE:
        return text
    while text and font.getlength("\u2026" + text) > _SIDE:
        text = text[1:]
    return "\u2026" + text
