"""The arithmetic of the time that is left, by a clock that is set."""

import pytest

from fxprune.forecast import ExpectedCost, Stage
from fxprune.time_left import STEADY, TimeLeft


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Call:
    """A call whose stations take what they are told."""

    def __init__(self, *stages: Stage):
        self.clock = Clock()
        self.left = TimeLeft(self.clock)
        if stages:
            self.left.expect(stages)

    def run(self, station: str, seconds: float, steps: int = 10) -> list[float]:
        """What is left after every step."""
        run, found = self.left.enter(station, steps), []
        for _ in range(steps):
            self.clock.now += seconds / steps
            self.left.advance(run, 1)
            found.append(self.now)
        self.left.leave()
        return found

    @property
    def now(self) -> float:
        """Seconds left."""
        assert self.left.left is not None
        return self.left.left


def two() -> tuple[Stage, Stage]:
    search = Stage("allocation", {"calibrate": [10.0], "fit": [4.0, 4.0]}, {"rewrite": 2.0})
    return search, Stage("agreement", {"fit": [20.0], "verify": [5.0]})


def test_costs_add_up_by_station() -> None:
    cost = ExpectedCost(two(), 5.0)
    assert cost.seconds == {"calibrate": 10, "fit": 28, "rewrite": 2, "verify": 5}
    assert cost.passes == 9


def test_nothing_is_said_before_anything_is_foreseen() -> None:
    call = Call()
    run = call.left.enter("capture")
    call.clock.now += 7
    assert (call.left.left, call.left.say(), call.left.elapsed) == (None, None, 7)
    assert call.left.now == ("capture", None)
    call.left.advance(run, 1)
    call.left.leave()
    assert call.left.now is None


def test_what_goes_as_foreseen_is_counted_down() -> None:
    call = Call(*two())
    assert call.now == 45
    left = call.run("calibrate", 10)
    # What is not counted is as far as the rest of its stage.
    assert left[4] == pytest.approx(40 - 2 * (1 - (1 - 5 / 18) ** 2))
    assert call.now < 35
    call.run("fit", 4), call.run("fit", 4)
    assert call.now == pytest.approx(25)
    call.left.finish("allocation")
    assert call.run("fit", 20)[9] == pytest.approx(5)
    assert call.run("verify", 5)[9] == 0
    call.left.finish("agreement")
    assert call.now == 0


def test_a_slow_machine_scales_what_is_left() -> None:
    call, left = Call(*two()), []
    for station, seconds in (("calibrate", 30), ("fit", 12), ("fit", 12)):
        left += call.run(station, seconds)
    call.left.finish("allocation")
    # In truth three times as much; known from what was done, beside a tenth of the forecast.
    assert 2 * 25 < call.now < 3 * 25
    assert max(left) < 3 * 45
    assert min(left) > 0


def test_a_fast_machine_does_too() -> None:
    call = Call(*two())
    call.run("calibrate", 2.5)
    assert 35 / 4 < call.now < 35 / 2


def test_what_did_not_come_is_not_waited_for() -> None:
    call = Call(*two())
    call.run("calibrate", 10)
    call.left.finish("allocation")
    assert call.now == pytest.approx(25)
    call.left.finish("unheard of")
    assert call.now == pytest.approx(25)


def test_more_runs_than_foreseen_add_nothing() -> None:
    call = Call(*two())
    call.run("calibrate", 10)
    for _ in range(4):
        call.run("fit", 4)
    assert call.now == pytest.approx(25)
    call.run("label", 50)
    assert call.now == pytest.approx(25)


def test_a_station_that_does_not_step_runs_out_slowly() -> None:
    call = Call(Stage("verify", {"verify": [10.0]}))
    call.left.enter("verify")
    left = []
    for _ in range(40):
        call.clock.now += 1
        left.append(call.now)
    assert left[:5] == [9, 8, 7, 6, 5]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 1


def test_stations_inside_others_have_their_own_time() -> None:
    call = Call(Stage("end", {"fit": [10.0], "calibrate": [10.0]}))
    fit = call.left.enter("fit", 2)
    call.clock.now += 5
    call.left.advance(fit, 1)
    assert call.now == pytest.approx(15)
    call.run("calibrate", 10)
    assert call.left.now == ("fit", 0.5)
    assert call.now == pytest.approx(5)


def test_sizes_follow_each_other() -> None:
    call = Call(*two(), *two())
    for _ in range(2):
        call.run("calibrate", 10)
        call.left.finish("allocation")
        call.run("fit", 20)
        call.run("verify", 5)
        left = call.now
        call.left.finish("agreement")
    assert left == pytest.approx(0)


def test_a_station_goes_by_what_it_took_at_other_sizes() -> None:
    call = Call(*two(), *two())
    call.run("calibrate", 10)
    call.left.finish("allocation")
    call.run("fit", 60)
    call.run("verify", 5)
    call.left.finish("agreement")
    call.left.finish("allocation")
    fit = call.now
    call.run("fit", 60)
    assert call.now < 5 * 2.5
    # On the whole it took not twice what was foreseen; the fit three times.
    assert fit - call.now > 20 * 2.25


def test_a_forecast_amid_a_station_knows_what_it_took() -> None:
    call = Call()
    run = call.left.enter("recover", 100)
    call.clock.now += 3
    call.left.advance(run, 10)
    call.left.expect([Stage("recover", {"recover": [30.0]})])
    assert call.now == pytest.approx(27)


def test_what_is_said_does_not_jump() -> None:
    call = Call(*two())
    said = [call.left.say() or 0.0]
    run = call.left.enter("calibrate", 1000)
    for tenth in range(120):
        call.clock.now += 0.1
        if tenth < 60:  # at once half of it is done
            call.left.advance(run, 500 if tenth == 20 else 1)
        elif tenth == 60:  # all trials turn out to be left out
            call.left.leave()
            call.left.finish("allocation")
            before = said[-1]
        said.append(call.left.say() or 0.0)
        # A step of a tenth of a second is a share of what a call that short settles in.
        assert abs(said[-1] - said[-2] + 0.1) < 45 * 0.1 / (STEADY * 25)
        assert said[-1] > 0
    assert call.now < before - 6 - 2  # a jump
    assert said[-1] == pytest.approx(call.now, rel=0.1)
