"""What the calibration examples say about a captured graph, each computed once, when asked for."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.moments import InputMoments, MomentsOnDemand, Site, collect_moments
from fxprune.calibrate.near_duplicates import sample, warn_of_alike_examples
from fxprune.calibrate.observe import together
from fxprune.calibrate.padding import EVERYWHERE, Padding
from fxprune.calibrate.penultimate import Penultimate, Seen
from fxprune.calibrate.recording import VALIDATION, Recording
from fxprune.calibrate.split import (
    EVERY_PART,
    FITTED_FIRST,
    HoldsOut,
    Split,
    examples_needed,
)
from fxprune.capture.batch import Batch
from fxprune.errors import warn_caller
from fxprune.label.groups import Analysis
from fxprune.label.layers import factorable
from fxprune.label.rotatable import mark_rotatable
from fxprune.plans.plan import Rotation
from fxprune.profile.output_moments import OutputMoments, output_moments
from fxprune.profile.recalled import Sums, observe_once
from fxprune.profile.removal import Profile, profile_groups
from fxprune.profile.selectors import SELECTORS
from fxprune.profile.sensitivity import sensitivities
from fxprune.progress import Advance, Journal

PROBED_EXAMPLES = 64
"""Examples whose output is differentiated; each costs about three forward passes
(docs/decisions/0009).
"""


@dataclass(frozen=True)
class Observed:
    """What the original gave on the fitting examples.

    Attributes:
        moments: of every consumer's input, without the validation split: what that validates must
            not have seen it.
        all_moments: with it.
        recording: the layers' and the model's outputs.
    """

    moments: Mapping[Site, InputMoments]
    all_moments: Mapping[Site, InputMoments]
    recording: Recording


@dataclass(frozen=True)
class Statistics:
    """What the calibration examples say about a captured graph; each computed once, when asked for.

    Attributes:
        graph, analysis: captured and labeled.
        calibration: the examples.
        split: what they are for.
        budget: what the held-out ones are to certify.
        ignored: parameter names that must keep their shape.
        seed, memory: as in `Options`.
        journal: of the run.
        compare_features: whether to warn of examples in which the model sees nearly the same.
        padding: whose positions count in nothing.
        centered: of streams whose norms were folded, by name, whether their channels have no mean;
            empty for the original.
    """

    graph: GraphModule
    analysis: Analysis
    calibration: Calibration
    split: Split
    budget: HoldsOut
    ignored: Callable[[str], bool]
    seed: int
    memory: float
    journal: Journal
    compare_features: bool = False
    padding: Padding = EVERYWHERE
    centered: Mapping[str, bool] = field(default_factory=dict)

    @property
    def scope(self) -> tuple[str, ...]:
        """What tells steps on this graph from those on the original."""
        return tuple(sorted(self.centered))

    def batches(
        self, chosen: np.ndarray, advance: Advance = lambda examples: None
    ) -> Iterator[Batch]:
        """Stream chosen calibration examples, counting those done."""
        for _, batch in self.numbered(chosen, advance):
            yield batch

    def numbered(self, chosen: np.ndarray, advance: Advance) -> Iterator[tuple[np.ndarray, Batch]]:
        """Stream chosen calibration examples with their numbers, counting those done."""
        for numbers, batch in self.calibration.numbered(chosen):
            yield numbers, batch.channels_last()
            advance(batch.own)

    @cached_property
    def marked(self) -> Analysis:
        """The analysis, with which groups may be rotated and why others may not."""
        if self.scope:
            return self.analysis
        with self.journal.station("label"):
            return mark_rotatable(self.graph, self.analysis)

    @property
    def rotations(self) -> dict[str, Rotation]:
        """The groups that are rotated, as a plan notes them."""
        return {}

    @cached_property
    def observed(self) -> Observed:
        """The original, run over the fitting examples once (docs/decisions/0010)."""
        sums, recording = observe_once(self.journal, self._observe, self._reread, self.scope)
        moments: Mapping[Site, InputMoments] = sums.moments
        every = moments
        if self.split.part(VALIDATION).any():
            every = MomentsOnDemand(moments, lambda site: moments[site] + sums.validating[site])
        if not self.scope:
            self._warn_if_thin(moments)
        if sums.seen is not None:
            self._warn_if_alike(sums.seen)
        return Observed(moments, every, recording)

    @property
    def work(self) -> float:
        """FLOPs of the original on the fitting examples."""
        return self.split.fitting * sum(term.amount for term in self.analysis.costs)

    def empty_recording(self) -> Recording:
        """Of the original, with nothing recorded yet."""
        split = self.split
        # Every part may end with copies, where batches have a fixed size.
        most = split.fitting + len(EVERY_PART) * (self.calibration.exact or 0)
        store = self.calibration.store
        return Recording(self.graph, most, store, self.seed, self.work, self.padding)

    def _reread(self) -> tuple[Recording, Iterator[Batch]]:
        """A recording whose chunks are opened as the examples are read."""
        recording, parts = self.empty_recording(), (*FITTED_FIRST, VALIDATION)
        batches = (recording.follow(part, self.batches(self.split.part(part))) for part in parts)
        return recording, itertools.chain.from_iterable(batches)

    def _observe(self) -> tuple[Sums, Recording]:
        """Run the original over the fitting examples."""
        split, recording = self.split, self.empty_recording()
        watch, features = recording.watch, None
        if self.compare_features:
            features = Penultimate(self.graph, sample(self.calibration.size, self.seed))
            watch = together(watch, features.watch)

        def stream(parts: tuple[str, ...], advance: Advance) -> Iterator[Batch]:
            for part in parts:
                numbered = self.numbered(split.part(part), advance)
                seen = (b for _, b in numbered) if features is None else features.follow(numbered)
                yield from recording.follow(part, seen)

        with self.journal.station("calibrate", split.fitting) as advance:
            moments, validating = (
                collect_moments(
                    self.graph,
                    self.analysis,
                    stream(parts, advance),
                    split.fitting,
                    watch,
                    self.seed,
                    self.padding,
                    self.calibration.store,
                )
                for parts in (FITTED_FIRST, (VALIDATION,))
            )
        return Sums(moments, validating, None if features is None else features.seen()), recording

    @cached_property
    def output_moments(self) -> dict[str, OutputMoments]:
        """Moments of the outputs of every layer that two could replace, by its weight."""
        key = (self.rotations, *self.scope)
        return self.journal.step("outputs", key, dict[str, OutputMoments], self._output_moments)

    def _output_moments(self) -> dict[str, OutputMoments]:
        recording = self.observed.recording
        with self.journal.station("calibrate"):
            layers = factorable(self.graph, self.ignored)[0]
            return output_moments(recording, layers, self.calibration.store.settle)

    @cached_property
    def sensitivities(self) -> dict[Site, Tensor]:
        """What output errors of every consumer cost the model's output, by the weight's axis.

        Empty, with a note, where the model has no derivative.
        """
        return self.journal.step(
            "sensitivities", self.scope, dict[Site, Tensor], self._sensitivities
        )

    def _sensitivities(self) -> dict[Site, Tensor]:
        chosen = self.split.first(PROBED_EXAMPLES)
        with self.journal.station("calibrate", int(chosen.sum())) as advance:
            try:
                batches = self.batches(chosen, advance)
                return sensitivities(
                    self.graph,
                    self.analysis,
                    batches,
                    self.seed,
                    self.memory,
                    self.padding,
                    self.calibration.store.settle,
                )
            except (RuntimeError, NotImplementedError) as error:
                reason = str(error).partition("\n")[0]
                self.journal.note(
                    f"The model has no derivative ({reason}): channels are chosen by each layer's "
                    "own error"
                )
                return {}

    @cached_property
    def profiles(self) -> Callable[[str], list[Profile]]:
        """Every channel group's removal order and errors, by the selector's name."""
        return cache(self._profiles)

    def _profiles(self, selector: str) -> list[Profile]:
        reads = SELECTORS[selector]
        moments = self.observed.all_moments if reads.moments else {}
        weighed = self.sensitivities if reads.sensitivities else {}

        def step(name: str, compute: Callable[[], Profile]) -> Profile:
            key = (selector, self.rotations)
            return self.journal.step(f"profile {name}", key, Profile, compute)

        with self.journal.station("profile", len(self.analysis.groups)) as advance:
            dtype = next(self.graph.parameters()).dtype
            return profile_groups(
                self.graph,
                self.analysis,
                moments,
                selector,
                dtype,
                weighed or None,
                advance,
                step,
            )

    def _warn_if_thin(self, moments: Mapping[Site, InputMoments]) -> None:
        thin = [
            (site[0], len(gram), seen)
            for site, own in moments.items()
            for gram, seen in zip(own.grams, own.rows, strict=True)
            if seen < len(gram)
        ]
        if not thin:
            return
        name, channels, seen = max(thin, key=lambda t: t[1] / t[2])
        fitted = max(own.examples for own in moments.values())
        wanted = math.ceil(channels * fitted / max(seen, 1))
        needed = examples_needed(wanted, self.calibration.groups, self.budget)
        read = "1 layer reads" if len(thin) == 1 else f"{len(thin)} layers read"
        text = (
            f"{read} more channels than the calibration data gives observations; the worst is "
            f"{name} with {channels} channels and {seen} observations. Give at least {needed} "
            "examples for a sharper fit."
        )
        self.journal.note(text.rstrip("."))
        warn_caller(text)

    def _warn_if_alike(self, seen: Seen) -> None:
        text = warn_of_alike_examples(seen, self.calibration.groups[seen.numbers])
        if text is not None:
            self.journal.note(text)
