"""Synthesized melodies of a few tones with noise, as the energies of bands over time; what is asked
is whether the pitch rises or falls from each tone to the next.
"""

import math

import torch
from torch import Tensor

RATE, SAMPLES = 8000, 8192
"""Samples per second, and in an example."""
TONES = 7
CLASSES = 2 ** (TONES - 1)
"""Contours: up or down from each tone to the next."""
LOWEST, SEMITONES = 200.0, 36
"""Of the pitches: the lowest in Hz, and how many semitones higher the highest may be."""
HARMONICS = 4
LOUDEST, QUIETEST = 15.0, -5.0
"""Of the tones over the noise, in dB: an example's is drawn between the two."""
WINDOW, HOP = 512, 192
BANDS, FRAMES = 48, 1 + SAMPLES // HOP
"""Of the energies: logarithmic bands, and positions of the window."""


def draw_melodies(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Melodies of random pitches, durations and timbre over white noise.

    Returns:
        logarithms of the bands' energies (count, `BANDS`, `FRAMES`) float32, of mean zero and
        variance one in each example, and contours (count,) int64.
    """
    pitches, rises = _pitches(count, generator)
    weights = 0.5 + torch.rand(count, TONES, generator=generator)
    ends = (weights.cumsum(1) / weights.sum(1, keepdim=True) * SAMPLES).long()
    tone = (torch.arange(SAMPLES)[None, :, None] >= ends[:, None, :-1]).sum(2)
    phases = (2 * math.pi / RATE) * pitches.gather(1, tone).cumsum(1)
    loudness = torch.rand(count, HARMONICS, generator=generator) / torch.arange(1, HARMONICS + 1)
    loudness[:, 0] = 1
    sound = torch.zeros(count, SAMPLES)
    for order in range(HARMONICS):
        sound += loudness[:, order, None] * torch.sin((order + 1) * phases)
    decibels = QUIETEST + (LOUDEST - QUIETEST) * torch.rand(count, 1, generator=generator)
    noise = torch.randn(count, SAMPLES, generator=generator)
    sound = sound / sound.std(1, keepdim=True) + 10 ** (-decibels / 20) * noise
    contour = (rises.long() * 2 ** torch.arange(TONES - 1)).sum(1)
    return _energies(sound), contour


def _pitches(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pitches in Hz, (count, TONES), and whether each is higher than the one before."""
    rises = torch.rand(count, TONES - 1, generator=generator) < 0.5
    steps = 1 + 3 * torch.rand(count, TONES - 1, generator=generator)
    walk = torch.cat([torch.zeros(count, 1), torch.where(rises, steps, -steps).cumsum(1)], 1)
    low, high = walk.min(1, keepdim=True).values, walk.max(1, keepdim=True).values
    start = torch.rand(count, 1, generator=generator) * (SEMITONES - (high - low)) - low
    return LOWEST * 2 ** ((walk + start) / 12), rises


def _energies(sound: Tensor) -> Tensor:
    """Logarithms of the energies of bands, normalized per example."""
    spectrum = torch.stft(
        sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True
    ).abs()
    edges = torch.logspace(math.log10(0.8 * LOWEST), math.log10(RATE / 2), BANDS + 2)
    frequencies = torch.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    width = torch.clamp(torch.minimum(middle - left, right - middle), min=RATE / WINDOW)
    share = torch.clamp(1 - (frequencies - middle).abs() / width, min=0)
    bands = torch.log(share.T @ spectrum.square() + 1e-3)
    return (bands - bands.mean((1, 2), keepdim=True)) / bands.std((1, 2), keepdim=True)
