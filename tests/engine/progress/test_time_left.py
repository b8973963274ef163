"""The time that is left, on runs whose course is written down: no clock of a machine is asked."""

import pytest

from engine.progress.time_left import TimeLeft, Work


def run_of(num_outer, train, pull, *, preflight=None, baselines=2, report=None):
    """Return the works of a descent, two segments a training, with weights as given."""
    segment, pull = Work("train", train / 2, forward=50), float(pull)
    sweep = [Work("reverse", pull, forward=100, reverse=50), Work("reverse", pull, 100, 50)]
    works = [Work("preflight", preflight, rough=True)] if preflight else []
    for _ in range(num_outer):
        works += [segment, segment, Work("evaluate", 0.1), *sweep, Work("update", 0.01)]
    works += [segment, segment] * (1 + baselines)
    return [*works, Work("report", report, rough=True)] if report else works


def errors(works, seconds_of, *, in_seconds=True, between=0.0, looks=4):
    """Carry out works on a clock of our own; return the time, and how wrong each look was.

    The error is relative to the time that was really left; looks in the last twentieth of a run
    are left out, because a few seconds are what they are.
    """
    left, now, seen = TimeLeft(works, in_seconds=in_seconds), 0.0, []
    for number, work in enumerate(works):
        name = f"{work.kind} {number}"
        left.begin(name, work.kind, now)
        seconds = seconds_of(work, now)
        for look in range(looks):
            share = look / looks
            steps = int(work.forward * share), int(work.reverse * share)
            left.reached(name, work.share(*steps), now + share * seconds)
            seen.append((now + share * seconds, left.left(now + share * seconds)))
        now += seconds
        left.end(name, now)
        now += between
    assert left.left(now) == pytest.approx(0, abs=1e-9)
    return now, {
        at / now: abs(found - (now - at)) / (now - at)
        for at, found in seen
        if found is not None and at < 0.95 * now
    }


def after_a_quarter(found):
    return max(error for at, error in found.items() if at >= 0.25)


def test_plan_that_is_right_is_right_from_the_start():
    """Before anything is measured there is only the plan."""
    works = run_of(10, train=4, pull=6)

    _, found = errors(works, lambda work, now: work.weight)

    assert max(found.values()) < 0.05  # steps are whole numbers


@pytest.mark.parametrize("factor", [0.3, 3.0])
@pytest.mark.parametrize("kind", ["train", "reverse"])
def test_plan_that_is_wrong_about_one_kind_is_corrected(factor, kind):
    """A machine that is busy while the plan is measured, or a compiled step."""
    works = run_of(10, train=4, pull=6)

    def seconds(work, now):
        return work.weight * (factor if work.kind == kind else 1.0)

    _, found = errors(works, seconds)

    assert after_a_quarter(found) < 0.05


def test_without_a_plan_the_steps_are_enough():
    """Attribution, canaries and measurements of smoothness have none."""
    works = run_of(10, train=100, pull=250)

    _, found = errors(works, lambda work, now: 0.02 * work.weight, in_seconds=False)

    assert after_a_quarter(found) < 0.05
    assert min(found) > 0  # nothing is said before something was measured


def test_what_lies_between_works_counts():
    """Prefect, reading of scores, a store that is far away."""
    works = run_of(10, train=1, pull=2)

    _, found = errors(works, lambda work, now: work.weight, between=0.3)

    assert after_a_quarter(found) < 0.1


def test_a_guess_about_the_preflight_spoils_nothing_else():
    """Its weight says nothing of a step, however wrong it was."""
    works = run_of(10, train=4, pull=6, preflight=1.0)

    _, found = errors(works, lambda work, now: 40.0 if work.kind == "preflight" else work.weight)

    assert after_a_quarter(found) < 0.1


def test_what_delays_one_work_says_nothing_of_the_others():
    """The first report is drawn beside a training, and loads what draws figures."""
    works = run_of(10, train=0.4, pull=0.6)
    delayed = next(each for each in range(len(works)) if each > 5 and works[each].kind == "train")
    seconds = [2.0 if place == delayed else each.weight for place, each in enumerate(works)]
    left, now = TimeLeft(works, in_seconds=True), 0.0
    for place in range(delayed + 1):
        left.begin(str(place), works[place].kind, now)
        now += seconds[place]
        left.end(str(place), now)

    assert left.left(now) == pytest.approx(sum(seconds[delayed + 1 :]), rel=0.02)


def test_one_guess_that_was_wrong_says_little_of_a_larger_one():
    """A random baseline takes nothing; one by gradients of each example takes longer than all."""
    works = [Work("baseline", 0.004, rough=True), Work("baseline", 1.0, rough=True)]
    left = TimeLeft(works, in_seconds=True)
    left.begin("random", "baseline", 0.0)
    left.end("random", 0.1)

    assert left.left(0.1) < 2.0


def test_a_machine_that_becomes_slower_is_followed():
    """Another run begins beside it, halfway; what comes after has the new pace soon."""
    works = run_of(20, train=4, pull=6)

    _, found = errors(works, lambda work, now: work.weight * (2.0 if now > 100 else 1.0))

    assert max(error for at, error in found.items() if at >= 0.6) < 0.2


def test_works_beside_each_other_take_less():
    """Two workers: the sum of the works is twice the time of the run."""
    works = [Work("train-without", 10.0, rough=True) for _ in range(40)]
    left = TimeLeft(works, in_seconds=True)
    for now in range(0, 100, 10):
        for lane in range(2):
            left.begin(f"{now} {lane}", "train-without", float(now))
        for lane in range(2):
            left.end(f"{now} {lane}", now + 10.0)

    assert left.left(100.0) == pytest.approx(100.0, rel=0.05)


def test_what_was_found_done_says_nothing_of_the_rest():
    """A run that goes on finds half of its stages in a second."""
    works = run_of(10, train=4, pull=6)
    left = TimeLeft(works, in_seconds=True)
    before = left.left(0.0)
    for number, work in enumerate(works[: len(works) // 2]):
        left.begin(str(number), work.kind, 0.01 * number)
        left.end(str(number), 0.01 * number + 0.005, cached=True)

    rest = sum(work.weight for work in works[len(works) // 2 :])
    assert before == pytest.approx(sum(work.weight for work in works))
    assert left.left(1.0) == pytest.approx(rest, rel=0.01)
    assert 0.4 < left.share(1.0) < 0.6


def test_work_that_nobody_expected_is_added_and_one_given_up_comes_again():
    """A worker was lost, or a flow does more than its list says."""
    left = TimeLeft([Work("train", 2.0, forward=10)] * 2, in_seconds=True)
    left.begin("extra", "unheard-of", 0.0)
    left.end("extra", 1.0)
    left.begin("one", "train", 1.0)
    left.drop("one")

    assert left.left(2.0) >= 4.0
    left.end("never begun", 3.0)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2])
def test_what_a_work_does_before_its_first_step_is_not_its_pace(share):
    """A search of a second that makes batches first: a tenth done after 0.8 s is no search of 8."""
    left = TimeLeft([Work("search", 1.0, forward=100, rough=True)] * 5, in_seconds=True)
    left.begin("search 0", "search", 0.0)

    left.reached("search 0", share, 0.8)

    assert left.left(0.8) == pytest.approx(4 + 1 - share)


def test_two_looks_at_a_work_say_how_fast_its_steps_are():
    """It loads for a second, and takes ten for its steps, where a hundredth was expected."""
    left = TimeLeft([Work("search", 0.1, forward=100)] * 5, in_seconds=True)
    left.begin("search 0", "search", 0.0)
    found = {}
    for at in (1.5, 3.0, 6.0, 9.0):
        left.reached("search 0", (at - 1.0) / 10, at)
        found[at] = left.left(at)

    assert found[1.5] < 1
    for at in (3.0, 6.0, 9.0):
        assert found[at] == pytest.approx(5 * 11 - at, rel=0.1)


def test_a_look_that_learns_nothing_new_changes_nothing():
    """Others ask between two steps of a work; time alone is no slower pace, but it has gone."""
    left = TimeLeft([Work("train", 1.0, forward=100)] * 5, in_seconds=True)
    left.begin("train 0", "train", 0.0)
    left.reached("train 0", 0.2, 0.2)
    left.reached("train 0", 0.5, 0.5)

    assert 4.0 < left.left(3.0) < left.left(0.5) == pytest.approx(4.5)


def test_little_of_a_work_counts_if_it_took_long():
    """Where a run is one training of an hour, somebody wants to know before six minutes."""
    left = TimeLeft([Work("train", 1000.0, forward=1000)], in_seconds=False)
    left.begin("train 0", "train", 0.0)
    left.reached("train 0", 0.001, 1.0)
    left.reached("train 0", 0.003, 3.0)
    soon = left.left(3.0)
    left.reached("train 0", 0.01, 10.0)

    assert soon is None
    assert left.left(10.0) == pytest.approx(990)


def test_the_longest_pause_between_two_works_says_nothing_of_the_others():
    """A second worker loaded its packages for eight seconds, and each of 48 stages counted so."""
    left = TimeLeft([Work("train", 1.0)] * 50, in_seconds=True)
    left.begin("0", "train", 0.0)
    left.end("0", 1.0)

    assert left.left(9.0) == pytest.approx(49, rel=0.01)  # it lasts
    left.begin("1", "train", 9.0)
    left.end("1", 10.0)
    left.begin("2", "train", 10.5)  # and half a second more is one that others are like
    left.end("2", 11.5)

    assert left.left(11.5) == pytest.approx(47 + 47 * 0.5 / 3, rel=0.01)
