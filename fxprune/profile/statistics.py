"""What the calibration examples say about a captured graph, each computed once, when asked for."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxprune.calibrate.batching import Place, Placed, Planned, Shared, in_order_of_sums, share_out
from fxprune.calibrate.loader import Calibration
from fxprune.calibrate.moments import InputMoments, MomentsOnDemand, Site, collect_moments
from fxprune.calibrate.near_duplicates import sample, warn_of_alike_examples
from fxprune.calibrate.observe import together
from fxprune.calibrate.padding import EVERYWHERE, Padding
from fxprune.calibrate.penultimate import Penultimate
from fxprune.calibrate.recording import VALIDATION, Recording
from fxprune.calibrate.split import EVERY_PART, FITTED_FIRST, REST, HoldsOut, Split
from fxprune.calibrate.thin import warn_of_thin_inputs
from fxprune.capture.batch import Batch
from fxprune.distributed.group import Group
from fxprune.distributed.sums import Sums
from fxprune.label.groups import Analysis
from fxprune.label.layers import factorable
from fxprune.label.rotatable import mark_rotatable
from fxprune.plans.plan import Rotation
from fxprune.profile.alone import for_one
from fxprune.profile.output_moments import OutputMoments, output_moments
from fxprune.profile.recalled import Observation, Observed, observe_once
from fxprune.profile.removal import Profile, profile_groups
from fxprune.profile.selectors import SELECTORS
from fxprune.profile.sensitivity import sensitivities
from fxprune.progress import Advance, Journal

PROBED_EXAMPLES = 64
"""Examples whose output is differentiated; each costs about three forward passes
(docs/decisions/0009).
"""
SHARES = 4
"""Batches that each of the small parts of the examples is at least cut into, whoever works on them.
"""
OBSERVED = (FITTED_FIRST, (VALIDATION,))
"""Parts of the examples whose moments are added up apart."""


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

    @property
    def group(self) -> Group:
        """Those who work on the examples together."""
        return self.calibration.group

    def batches(
        self, chosen: np.ndarray, advance: Advance = lambda examples: None
    ) -> Iterator[Batch]:
        """Stream chosen calibration examples, counting those done."""
        for batch in self.calibration.batches(chosen):
            yield batch.channels_last()
            advance(batch.own)

    def planned(
        self, chosen: np.ndarray, fewest: int = 1, first: int = 0, stream: int = 0
    ) -> Shared:
        """A stream of which every rank takes its share.

        Args:
            chosen: (examples,) bool.
            fewest: batches there are to be, where there are as many examples.
            first: examples that come before.
            stream: which of those that are added up together.
        """
        return share_out(self.calibration.plan(chosen, fewest, first, stream), self.group)

    def shared(self, batches: Iterable[Planned], advance: Advance) -> Iterator[Placed]:
        """Make batches, counting the examples done."""
        for planned in batches:
            batch = self.calibration.make(planned).channels_last()
            yield Placed(planned.place, planned.numbers, batch)
            advance(batch.own)

    @cached_property
    def parts(self) -> dict[str, Shared]:
        """The fitting examples, by what they are for, in the order in which they are observed."""
        found, first = dict[str, Shared](), 0
        for number, part in enumerate((*FITTED_FIRST, VALIDATION)):
            fewest = 1 if part == REST else SHARES
            found[part] = self.planned(self.split.part(part), fewest, first, number)
            first += found[part].size
        return found

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
        owners = [who for parts in OBSERVED for _, _, who in in_order_of_sums(self.parts, parts)]
        known = self._observe, self._reread, owners, self.scope
        sums, recording = observe_once(self.journal, *known)
        recording.finish()
        moments: Mapping[Site, InputMoments] = sums.moments
        both = moments
        if self.split.part(VALIDATION).any():
            both = MomentsOnDemand(moments, lambda site: moments[site] + sums.validating[site])
        groups, seen = self.calibration.groups, sums.seen
        for text in (
            None if self.scope else warn_of_thin_inputs(moments, groups, self.budget),
            None if seen is None else warn_of_alike_examples(seen, groups[seen.numbers]),
        ):
            if text is not None:
                self.journal.note(text)
        return Observed(moments, both, recording)

    @cached_property
    def alone(self) -> Recording:
        """What trials read of what all ranks recorded, for one that tries by itself."""
        every = in_order_of_sums(self.parts, self.split.tried_on)
        found, wanted = self.empty_recording(), [(batch, part) for batch, part, _ in every]
        return for_one(self.observed.recording, found, self._followed(found, wanted))

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
        sums = functools.reduce(Sums.and_of, (stream.sums for stream in self.parts.values()))
        own = sum(batch.size for stream in self.parts.values() for batch in stream.mine)
        return Recording(self.graph, most, store, self.seed, self.work, self.padding, sums, own)

    def _mine(self, parts: tuple[str, ...]) -> list[tuple[Planned, str]]:
        """Batches of these parts that this rank works on, in the order of sums, and whose."""
        every, own = in_order_of_sums(self.parts, parts), self.group.rank
        return [(batch, part) for batch, part, who in every if who == own]

    def _reread(self) -> tuple[Recording, Iterator[tuple[Place, Batch]]]:
        """A recording whose chunks are opened as the examples are read."""
        recording = self.empty_recording()
        mine = [pair for parts in OBSERVED for pair in self._mine(parts)]
        return recording, self._followed(recording, mine)

    def _followed(
        self,
        recording: Recording,
        mine: Sequence[tuple[Planned, str]],
        advance: Advance = lambda examples: None,
        features: Penultimate | None = None,
    ) -> Iterator[tuple[Place, Batch]]:
        """Batches, each with a chunk of a recording to record into."""
        made = self.shared((batch for batch, _ in mine), advance)
        for placed, (_, part) in zip(made, mine, strict=True):
            if features is not None:
                features.start(placed.numbers, placed.batch)
            yield from recording.follow(part, [(placed.place, placed.batch)])

    def _observe(self) -> tuple[Observation, Recording]:
        """Run the original over the fitting examples."""
        split, recording = self.split, self.empty_recording()
        watch, features = recording.watch, None
        if self.compare_features:
            features = Penultimate(self.graph, sample(self.calibration.size, self.seed))
            watch = together(watch, features.watch)
        total = sum(batch.size for parts in OBSERVED for batch, _ in self._mine(parts))
        with self.journal.station("calibrate", total) as advance:
            moments, validating = (
                collect_moments(
                    self.graph,
                    self.analysis,
                    self._followed(recording, self._mine(parts), advance, features),
                    split.fitting,
                    watch,
                    self.seed,
                    self.padding,
                    recording.sums,
                    self.calibration.store.settle,
                )
                for parts in OBSERVED
            )
        seen = None if features is None else features.seen(self.group)
        return Observation(moments, validating, seen), recording

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
        stream = self.planned(self.split.first(PROBED_EXAMPLES), fewest=SHARES)
        settle, seen = self.calibration.store.settle, self.observed
        with self.journal.station("calibrate", sum(b.size for b in stream.mine)) as advance:
            batches = ((placed.place, placed.batch) for placed in self.shared(stream.mine, advance))
            asked = self.seed, self.memory, self.padding, stream.sums, settle, seen.moments
            try:
                return sensitivities(self.graph, self.analysis, batches, *asked, seen.validating)
            except torch.OutOfMemoryError:
                raise  # says nothing of derivatives
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
                step if self.journal.steps.folder else None,
                self.group,
            )
