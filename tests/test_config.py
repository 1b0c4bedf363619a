"""Settings: what the environment says, what a scope changes, and what is refused."""

import sys
import threading
from pathlib import Path

import pytest

from hybridml import config


def test_an_empty_environment_gives_defaults():
    settings = config.from_environment({})
    assert settings.num_threads == config.available_cpus() >= 1
    assert settings.device == ""
    assert settings.cache_dir.name == "hybridml"
    assert settings.cache_dir.is_absolute()
    blank = dict.fromkeys(["HYBRIDML_CACHE_DIR", "HYBRIDML_NUM_THREADS", "HYBRIDML_DEVICE"], " ")
    assert config.from_environment(blank) == settings


def test_the_environment_is_read(tmp_path):
    environ = {"HYBRIDML_CACHE_DIR": str(tmp_path), "HYBRIDML_NUM_THREADS": " 3 ", "HYBRIDML_DEVICE": "gpu:1"}
    assert config.from_environment(environ) == config.Config(tmp_path, 3, "gpu:1")
    assert config.from_environment({"HYBRIDML_CACHE_DIR": "~/x"}).cache_dir == Path.home() / "x"


def test_the_cache_is_where_each_system_keeps_caches(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert config.default_cache_dir({"XDG_CACHE_HOME": "/var/c"}) == Path("/var/c/hybridml")
    assert config.default_cache_dir({}) == Path.home() / ".cache" / "hybridml"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert config.default_cache_dir({}) == Path.home() / "Library" / "Caches" / "hybridml"
    monkeypatch.setattr(sys, "platform", "win32")
    assert config.default_cache_dir({"LOCALAPPDATA": "/users/me/local"}) == Path("/users/me/local/hybridml")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "100000"])
def test_thread_counts_that_are_none(value):
    with pytest.raises(ValueError, match=r"HYBRIDML_NUM_THREADS.*whole number from 1 to 1024"):
        config.from_environment({"HYBRIDML_NUM_THREADS": value})


@pytest.mark.parametrize(("value", "meant"), [("", False), ("0", False), ("1", True)])
def test_fast_math_is_off_unless_asked_for(value, meant):
    assert config.from_environment({"HYBRIDML_FAST_MATH": value}).fast_math is meant


@pytest.mark.parametrize("value", ["yes", "2", "true"])
def test_fast_math_is_one_or_nought(value):
    with pytest.raises(ValueError, match=r"fast_math='.*HYBRIDML_FAST_MATH.*expected 0 or 1"):
        config.from_environment({"HYBRIDML_FAST_MATH": value})


@pytest.mark.parametrize("value", ["tpu", "gpu:", "cpu:1", "gpu:-1", "GPU"])
def test_devices_that_are_none(value):
    with pytest.raises(ValueError, match=r"HYBRIDML_DEVICE.*gpu:N"):
        config.from_environment({"HYBRIDML_DEVICE": value})


def test_a_scope_changes_what_it_names_and_ends():
    before = config.get()
    with config.scope(num_threads=7) as outer:
        assert config.get() is outer
        assert outer.num_threads == 7
        assert outer.cache_dir == before.cache_dir
        with config.scope(device="cpu"):
            assert (config.get().num_threads, config.get().device) == (7, "cpu")
        assert config.get() is outer
    assert config.get() == before


def test_a_scope_ends_after_an_error_too():
    before = config.get()
    with pytest.raises(ZeroDivisionError), config.scope(num_threads=2):
        _ = 1 / 0
    assert config.get() == before


def test_a_scope_refuses_what_it_does_not_know():
    with pytest.raises(TypeError), config.scope(colour="red"):
        pass
    with pytest.raises(ValueError, match="num_threads"), config.scope(num_threads=True):
        pass


def test_a_scope_is_this_thread_s_own():
    seen = []
    with config.scope(num_threads=9):
        thread = threading.Thread(target=lambda: seen.append(config.get().num_threads))
        thread.start()
        thread.join()
    assert seen == [config.get().num_threads]
