"""This processor: what LLVM says, asked once for each machine."""

import dataclasses
import json

import pytest

from hybridml import config
from hybridml.kernels import cache, host, llvm


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """How often LLVM was asked, with an empty cache and nothing remembered."""
    count = []
    real = host._asked
    monkeypatch.setattr(host, "_asked", lambda: count.append(1) or real())
    with config.scope(cache_dir=tmp_path):
        yield count


def again():
    return host.host.__wrapped__()


def test_it_is_what_llvm_says(asked):
    found = again()
    assert found.cpu == llvm.binding().get_host_cpu_name()
    assert host.features() == dict(llvm.binding().get_host_cpu_features())


@pytest.mark.skipif(host._key() is None, reason="the system does not describe its processor")
def test_llvm_is_asked_once_and_again_if_the_note_is_damaged_or_of_another_machine(asked, monkeypatch):
    found = again()
    assert again() == found and len(asked) == 1
    (note,) = cache.directory().glob("host_*.note")
    whole = note.read_text()
    for damaged in ("", whole[:-3], whole.replace(found.cpu, "pentium"), "x\n{}"):
        note.write_text(damaged)
        assert again() == found
    assert len(asked) == 5
    key = host._key()
    cache.write_note("host", key, json.dumps({"cpu": "a"}))  # whole, but with other fields
    assert again() == found and len(asked) == 6
    monkeypatch.setattr(host, "_key", lambda: "0" * 64)
    assert again() == found and len(asked) == 7


def test_without_a_description_llvm_is_asked_in_each_process(asked, monkeypatch):
    monkeypatch.setattr(host, "_key", lambda: None)
    assert again() == again() and len(asked) == 2


def test_a_host_is_three_texts():
    assert [f.name for f in dataclasses.fields(host.Host)] == ["cpu", "features", "triple"]


def test_the_largest_cache(monkeypatch, tmp_path):
    read = host.last_level_cache.__wrapped__
    assert 1 << 18 <= read() <= 1 << 31
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    assert read() == 32 << 20  # nobody tells
    for number, size in enumerate(("32K\n", "1024K\n", "garbage", "16M")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(size)
    assert read() == 16 << 20
