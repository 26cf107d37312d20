"""The numbers of a run: the documented generator, and the same values for ever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dreambooth_resume.data.random import Stream, generator, raw_words

_MASK = (1 << 64) - 1


def philox_4x64_10(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x64 with ten rounds as in Salmon et al. 2011, section 4.3, in plain Python."""
    low_key, high_key = key
    a, b, c, d = counter
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ low_key, second & _MASK, (first >> 64) ^ d ^ high_key, first & _MASK
        low_key, high_key = (low_key + 0x9E3779B97F4A7C15) & _MASK, (high_key + 0xBB67AE8584CAA73B) & _MASK
    return [a, b, c, d]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("stream", list(Stream))
def test_words_are_philox_of_key_seed_stream_and_counter_draw_slot_step(seed: int, stream: Stream) -> None:
    words = raw_words(generator(seed, stream, step=3, slot=2, draw=1), 8)
    # numpy counts up before each block of four words.
    expected = [philox_4x64_10((seed, stream), (block, 1, 2, 3)) for block in (1, 2)]
    assert words.tolist() == list(itertools.chain(*expected))


GOLDEN_WORDS = {
    Stream.SHUFFLE: (0x797653A9AFDF1F30, 0x3DA0BD03620D96CA),
    Stream.AUGMENT: (0x47770ECA692B8D24, 0xFA6739EBB01877A9),
    Stream.CAPTION: (0x4A1843B2EBF3D0D6, 0x8D6258D45F009664),
    Stream.TIMESTEP: (0x10E63102978F6751, 0xFC48DCED16CD014B),
    Stream.NOISE: (0x66F6F654896C6C7A, 0x1D2041F2A7828928),
    Stream.VAE: (0x159BE73FBAEFC1B2, 0x95B4FA7F19CD455),
    Stream.DROPOUT: (0x3440BD466E0FD515, 0x532CBD2EA252DDA9),
    Stream.INIT: (0xCF3C8D301E9CF9E, 0x383D5055B137F2A8),
    Stream.SAMPLE: (0xEC7B14D2718A9837, 0xFDFD8C96563AA49E),
    Stream.VALIDATION: (0x1D3EF73C139F6703, 0xDBAC626CA81D5A01),
}


@pytest.mark.parametrize("stream", list(Stream))
def test_golden_words_of_every_stream(stream: Stream) -> None:
    assert tuple(raw_words(generator(7, stream, step=3, slot=2, draw=1), 2).tolist()) == GOLDEN_WORDS[stream]


def test_golden_noise() -> None:
    """Fails when numpy draws normals in another way: then runs begun before are `equivalent`, not `exact`."""
    noise = generator(0, Stream.NOISE, step=5, slot=1).standard_normal((4, 2, 2), dtype=np.float32)
    golden = ["-0x1.3f30fc0000000p+0", "-0x1.5280ec0000000p-2", "-0x1.0a0c040000000p+0"]
    assert [float(value).hex() for value in noise.ravel()[:3]] == golden


def test_golden_timesteps() -> None:
    timesteps = [int(generator(0, Stream.TIMESTEP, step=step).integers(1000)) for step in range(8)]
    assert timesteps == [120, 547, 55, 975, 608, 228, 632, 418]


def test_different_coordinates_give_different_numbers() -> None:
    seen = {
        int(raw_words(generator(seed, stream, step=step, slot=slot, draw=draw), 1)[0])
        for seed, stream, step, slot, draw in itertools.product(
            (0, 1, 2**32, 2**32 + 1), Stream, range(3), range(3), range(3)
        )
    }
    assert len(seen) == 4 * len(Stream) * 27


def test_all_64_bits_of_a_seed_count() -> None:
    """torch's CPU generator keeps 32 of them, which is why it isn't used."""
    assert raw_words(generator(1, Stream.NOISE), 1)[0] != raw_words(generator(1 + 2**32, Stream.NOISE), 1)[0]


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**64}, {"step": -1}, {"slot": 2**64}, {"draw": -1}])
def test_a_coordinate_out_of_range_is_refused_by_name(bad: dict[str, int]) -> None:
    coordinates = {"seed": 0, **bad}
    with pytest.raises(ValueError, match=next(iter(bad))):
        generator(coordinates.pop("seed"), Stream.NOISE, **coordinates)
