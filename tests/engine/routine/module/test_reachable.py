"""What a function can reach by itself."""

from functools import partial, wraps

from engine.routine.module.reachable import parts_of_callable

READ_AS_GLOBAL = object()


def test_a_function_reaches_closure_defaults_and_globals():
    """Each way by which a function can hold an object is followed, with the object's name."""
    enclosed, by_place, by_name = object(), object(), object()

    def function(first=by_place, *, named=by_name):
        return enclosed, first, named, lambda: READ_AS_GLOBAL

    found = list(parts_of_callable(function))

    assert ("enclosed", enclosed) in found
    assert ("", by_place) in found
    assert ("named", by_name) in found
    assert ("READ_AS_GLOBAL", READ_AS_GLOBAL) in found


def test_methods_partials_and_wrappers_reach_what_they_hold():
    """A method reaches its owner, a partial its arguments, and a wrapper what it wraps."""

    class Owner:
        def method(self):
            """Stand for any method."""

    owner, argument = Owner(), object()

    @wraps(owner.method)
    def wrapper():
        """Stand for a decorated function."""

    assert ("", owner) in parts_of_callable(owner.method)
    assert {"", "key"} == {
        name for name, _ in parts_of_callable(partial(print, argument, key=owner))
    }
    assert ("", owner.method) in parts_of_callable(wrapper)


def test_a_variable_that_is_not_set_yet_is_left_out():
    """A closure may name a variable before it has a value."""

    def function():
        return later

    assert [name for name, _ in parts_of_callable(function)] == []

    later = 1
    assert ("later", later) in parts_of_callable(function)
