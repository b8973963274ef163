"""What the engine writes while it computes: every step once, and nothing that changes a bit."""

import pytest
import torch

import engine
from engine.progress.counted import whole_work
from engine.progress.meter import Meter, doing, heard_by, listening
from engine.recipes.replay import ReplaySettings
from engine.schedules.by_name import schedule_maker
from tests.helpers.trainings import routines

OPTIONS = [
    {"schedule": "k-ary", "arity": 2},
    {"schedule": "store-all"},
    {"schedule": "binomial", "num_slots": 2, "unroll": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_step_is_noted_and_no_bit_is_another(options):
    """Steps counted by a simulation of the schedule are the oracle for those that are noted."""
    routine = routines.routine()
    alone = engine.metagradient(routine, routines.output, witness=False, **options)
    meter = Meter()

    with heard_by(meter):
        heard = engine.metagradient(routine, routines.output, witness=False, **options)

    plan = schedule_maker(ReplaySettings.model_validate(options))
    work = whole_work(plan, routine.num_steps, routine.first_step, 1, "run")
    assert torch.equal(heard["weights"], alone["weights"])
    assert meter.reverse == work.reverse == routine.num_steps
    assert meter.forward == work.forward
    assert (meter.step, meter.num_steps, meter.is_reversed) == (0, routine.num_steps, True)


def test_nobody_listens_by_default_and_nobody_stays():
    """A meter that stayed would be written on by the next run of the same notebook."""
    assert listening() is None
    with heard_by(Meter()):
        assert listening() is not None
    assert listening() is None


def test_what_is_at_work_is_named_from_the_outside_in():
    """It is what a person reads while nothing else can be said."""
    meter = Meter()

    def fail():
        with doing("replay"):
            assert meter.work == "preflight: replay"
            raise RuntimeError("of a check")

    with heard_by(meter), doing("preflight"):
        with pytest.raises(RuntimeError, match="of a check"):
            fail()
        assert meter.work == "preflight"
    assert meter.work == ""


def test_training_alone_and_many_at_once_are_noted():
    """Audits and attributions are many trainings."""
    routine = routines.routine()
    meter = Meter()

    with heard_by(meter):
        engine.train(routine, witness=False)

    assert meter.forward == routine.num_steps
    assert meter.reverse == 0
