"""Pictures side by side with words on both edges: how a LoRA grows, or what it changes. Needs no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL, MOST_ROWS, MOST_COLUMNS = 256, 24, 12
_GAP, _MARGIN, _LABEL_WIDTH, _LINE, _LINES = 8, 12, 150, 18, 4
_INK, _PALE, _PAPER, _EMPTY = "#1a202c", "#718096", "#ffffff", "#edf2f7"


def draw_grid(
    rows: Sequence[Sequence[bytes | None]],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
) -> bytes:
    """A PNG of pictures given as PNG (None: an empty place), each scaled into a cell of 256 pixels.

    At most 24 rows and 12 columns are drawn: of more rows the first, the last and some evenly between, of more columns
    the first. Raises ValueError if there is nothing to draw.
    """
    if not rows or not column_labels:
        raise ValueError("there are no pictures to draw")
    kept = _spread(len(rows), MOST_ROWS)
    columns = min(len(column_labels), MOST_COLUMNS)
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    labels = [_wrapped(label, small, CELL) for label in column_labels[:columns]]
    head = 2 * _MARGIN + (1 + max(map(len, labels))) * _LINE + _GAP
    width = _LABEL_WIDTH + columns * (CELL + _GAP) + _MARGIN
    sheet = Image.new("RGB", (width, head + len(kept) * (CELL + _GAP) + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), _fitting(title, font, width - 2 * _MARGIN), fill=_INK, font=font)
    for column, lines in enumerate(labels):
        left = _LABEL_WIDTH + column * (CELL + _GAP)
        for number, line in enumerate(lines):
            pen.text((left, _MARGIN + (number + 1.5) * _LINE), line, fill=_PALE, font=small)
    for place, row in enumerate(kept):
        top = head + place * (CELL + _GAP)
        label = _fitting(row_labels[row], font, _LABEL_WIDTH - _MARGIN)
        pen.text((_MARGIN, top + CELL // 2 - _LINE // 2), label, fill=_INK, font=font)
        for column in range(columns):
            left = _LABEL_WIDTH + column * (CELL + _GAP)
            _paste(sheet, pen, rows[row][column] if column < len(rows[row]) else None, left, top)
    body = io.BytesIO()
    sheet.save(body, format="PNG")
    return body.getvalue()


def _paste(sheet: Image.Image, pen: ImageDraw.ImageDraw, png: bytes | None, left: int, top: int) -> None:
    if png is None:
        pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=_EMPTY)
        return
    with Image.open(io.BytesIO(png)) as picture:
        scale = min(CELL / picture.width, CELL / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        # A picture that is made larger keeps its pixels visible: nothing is drawn that isn't there.
        how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        small = picture.convert("RGB").resize(size, how)
    sheet.paste(small, (left + (CELL - size[0]) // 2, top + (CELL - size[1]) // 2))


def _spread(count: int, most: int) -> list[int]:
    """Which of `count` rows are shown: the first, the last, and evenly between."""
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == _LINES:
            lines[-1] = _fitting(f"{lines[-1]} …", font, width)
            break
        else:
            lines.append(_fitting(word, font, width))
    return lines


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
