"""Synthesized tones with noise: harmonic sounds whose pitch is known, as pitch trackers are
trained on.
"""

import math

import torch
from torch import Tensor

RATE, SAMPLES = 16_000, 1024
"""Samples per second, and in an example."""
LOWEST, CENTS, BINS = 32.70, 20, 360
"""Of the pitches: the first in Hz (C1), the cents between two, and how many there are."""
HARMONICS = 24
LOUDEST, QUIETEST = 30.0, 0.0
"""Of the tone over the noise, in dB: an example's is drawn between the two."""


def draw_tones(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tones of random pitch, timbre and loudness over white noise.

    Returns:
        sounds (count, `SAMPLES`) float32, each of mean zero and variance one, and the number of
        each one's pitch, (count,) int64; both on the generator's device.
    """
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    position = uniform(count) * BINS
    pitch = LOWEST * 2 ** (CENTS * position / 1200)
    orders = torch.arange(1, HARMONICS + 1, device=device)
    # Amplitudes fall with the order, each sound's at a rate of its own; none beyond the half rate.
    amplitudes = orders ** -(2 * uniform(count, 1)) * uniform(count, HARMONICS)
    amplitudes = amplitudes * (pitch[:, None] * orders < RATE / 2)
    time = (torch.arange(SAMPLES, device=device) - SAMPLES / 2) / RATE
    phases = (2 * math.pi * pitch)[:, None] * time
    starts = 2 * math.pi * uniform(count, HARMONICS)
    sound = torch.zeros(count, SAMPLES, device=device)
    for order in range(HARMONICS):
        wave = torch.sin((order + 1) * phases + starts[:, order, None])
        sound += amplitudes[:, order, None] * wave
    decibels = QUIETEST + (LOUDEST - QUIETEST) * uniform(count, 1)
    noise = torch.randn(count, SAMPLES, generator=generator, device=device)
    sound = sound / sound.std(1, keepdim=True) + 10 ** (-decibels / 20) * noise
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    return sound, position.long().clamp(max=BINS - 1)
