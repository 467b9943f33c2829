"""Synthesized tones, and a pitch tracker with wide kernels on them."""

from typing import Any

import pytest
import torch

import fxprune
from benchmarks.datasets.tones import BINS, CENTS, LOWEST, RATE, SAMPLES, draw_tones
from benchmarks.models.pitch import PitchNet
from fxprune.linalg.refit import Fit
from fxprune.linalg.wide_refit import WideRows, refit_wide


def test_tones_have_the_pitch_that_they_are_labeled_with() -> None:
    sounds, pitches = draw_tones(200, torch.Generator().manual_seed(0))
    assert sounds.shape == (200, SAMPLES)
    torch.testing.assert_close(sounds.std(1), torch.ones(200))
    assert 0 <= int(pitches.min()) <= int(pitches.max()) < BINS
    # Of a harmonic sound the autocorrelation at one period is nearly that at none.
    spectrum = torch.fft.rfft(sounds, 2 * SAMPLES)
    correlation = torch.fft.irfft(spectrum.abs().square())
    frequency = LOWEST * 2 ** (CENTS * (pitches + 0.5) / 1200)
    period = (RATE / frequency).round().long()
    # Half a bin and half a sample off: only pitches that long periods tell apart.
    low = (frequency < 300) & (period < SAMPLES // 4)
    near = torch.stack([correlation.gather(1, (period + d)[:, None])[:, 0] for d in (-1, 0, 1)])
    shorter = SAMPLES / (SAMPLES - period)
    similar = near.max(0).values * shorter / correlation[:, 0]
    assert int(low.sum()) > 20
    assert float(similar[low].median()) > 0.8


def test_no_layer_of_wide_kernels_is_left_to_its_one_shot_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 taps over 32 channels are 2,048 unknowns per output, more than rows are affordable."""
    solved: list[int] = []

    def counted(rows: WideRows, *more: Any) -> Fit:
        solved.append(rows.features)
        return refit_wide(rows, *more)

    monkeypatch.setattr("fxprune.fit.layer.refit_wide", counted)
    monkeypatch.setattr("fxprune.calibrate.recording.LEAST_WORK", 0.0)
    torch.manual_seed(0)
    net = PitchNet(32).eval()
    sounds, _ = draw_tones(60, torch.Generator().manual_seed(1))
    small = fxprune.compress(
        net, sounds, flops=0.6, method="uniform", decision="argmax", progress=False
    )
    assert max(solved) > 1000
    before, after = fxprune.report(small).flops
    assert after <= 0.6 * before
    with torch.no_grad():
        torch.testing.assert_close(small(sounds), fxprune.masked(net, small)(sounds))
