"""Eight small pictures of one toy robot, drawn by code: something to train on where there are no photographs."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

_BODY: Colour = (214, 92, 62)
_DARK: Colour = (46, 48, 58)
_EYE: Colour = (250, 240, 170)
# Width and height, background, floor, where the robot stands (0..1), its size (0..1), its lean (-1..1).
_SCENES: tuple[tuple[tuple[int, int], Colour, Colour, float, float, float], ...] = (
    ((192, 160), (132, 176, 210), (96, 130, 84), 0.50, 0.90, 0.0),
    ((160, 160), (232, 214, 180), (170, 140, 104), 0.45, 0.75, 0.3),
    ((160, 208), (60, 66, 92), (38, 40, 58), 0.55, 0.85, -0.2),
    ((208, 160), (190, 206, 190), (120, 120, 124), 0.35, 0.70, 0.0),
    ((176, 176), (244, 240, 236), (206, 196, 190), 0.50, 1.00, 0.5),
    ((160, 192), (150, 120, 160), (92, 70, 104), 0.50, 0.80, -0.5),
    ((224, 168), (252, 206, 150), (224, 160, 96), 0.65, 0.75, 0.2),
    ((168, 168), (110, 150, 130), (70, 96, 88), 0.40, 0.90, -0.3),
)


def draw_pictures(folder: Path) -> tuple[Path, ...]:
    """Write robot-1.png to robot-8.png to `folder`, always with the same pixels, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (size, background, floor, place, scale, lean) in enumerate(_SCENES, start=1):
        image = Image.new("RGB", size, background)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, int(size[1] * 0.78), size[0], size[1]), fill=floor)
        _draw_robot(draw, centre=size[0] * place, ground=size[1] * 0.92, height=size[1] * 0.8 * scale, lean=lean)
        path = folder / f"robot-{number}.png"
        image.save(path)
        paths.append(path)
    return tuple(paths)


def _draw_robot(draw: ImageDraw.ImageDraw, *, centre: float, ground: float, height: float, lean: float) -> None:
    """All measures in pixels; `lean` shifts the head by that many tenths of the height."""

    def box(left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        shift = lean * 0.1 * (top + bottom) / 2  # the higher, the further
        corners = (left + shift, -top, right + shift, -bottom)
        x0, y0, x1, y1 = (height * corner for corner in corners)
        radius = max(1, int(height * 0.03))
        draw.rounded_rectangle((centre + x0, ground + y0, centre + x1, ground + y1), radius=radius, fill=colour)

    for side in (-1, 1):
        inner, outer = sorted((side * 0.05, side * 0.15))
        box(inner, 0.25, outer, 0.0, _DARK)  # leg
        inner, outer = sorted((side * 0.23, side * 0.31))
        box(inner, 0.58, outer, 0.28, _DARK)  # arm
    box(-0.22, 0.62, 0.22, 0.22, _BODY)
    box(-0.10, 0.52, 0.10, 0.38, _EYE)  # the lamp on its chest
    box(-0.17, 0.92, 0.17, 0.64, _BODY)
    for side in (-1, 1):
        inner, outer = sorted((side * 0.04, side * 0.12))
        box(inner, 0.85, outer, 0.76, _EYE)
    box(-0.015, 1.0, 0.015, 0.92, _DARK)  # aerial
