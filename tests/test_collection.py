"""Python's cycle collector is held in the main thread alone, and goes on afterwards."""

import gc
import threading

import pytest

from hybridml import collection


def test_nothing_is_collected_inside_and_it_goes_on_afterwards():
    with collection.held():
        assert not gc.isenabled()
        with collection.held():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error():
    with pytest.raises(ZeroDivisionError), collection.held():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_who_has_stopped_it_finds_it_stopped():
    gc.disable()
    try:
        with collection.held():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_others_have_frozen_stays_frozen():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with collection.held():
            pass
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()


def test_another_thread_leaves_it_alone():
    seen = []

    def work():
        with collection.held():
            seen.append(gc.isenabled())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
