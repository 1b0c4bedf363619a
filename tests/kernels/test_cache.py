"""The disk cache: whole entries or none, damage of every kind, and places that cannot be written."""

import os
from pathlib import Path

import pytest

from hybridml import config
from hybridml.kernels import cache, jit, llvm

SOURCE = """
def add_three(args, begin, end):
    for i in range(begin, end):
        args[i] += 3
"""


def add_three(load=jit.load):
    import ctypes

    import numpy as np

    kernel = load(SOURCE, "add_three")
    words = np.arange(4)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel.address)
    call(words.ctypes.data, 1, 3)
    assert words.tolist() == [0, 4, 5, 3]
    return kernel


def forget_memory(monkeypatch):
    monkeypatch.setattr(jit, "_by_text", {})


def object_file(directory):
    [file] = (directory / "kernels").glob("*.o")
    return file


def test_the_source_is_there_to_read(empty_cache):
    kernel = add_three()
    assert kernel.origin == "compiled"
    assert kernel.path.read_text() == SOURCE
    assert kernel.path.parent == empty_cache / "kernels"
    assert not list(kernel.path.parent.glob("*.tmp"))


def test_the_second_load_comes_from_disk(empty_cache, monkeypatch):
    add_three()
    forget_memory(monkeypatch)
    with jit.forbid_compiling():
        assert add_three().origin == "disk"


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "cut in the header": lambda content: content[:20],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 8,
    "one bit flipped in the code": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "another symbol": lambda content: content.replace(b" add_three_", b" add_4hree_", 1),
    "text": lambda content: "Grüße\n".encode() * 50,
    "another key": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_compiled_again_and_replaced(empty_cache, monkeypatch, damage):
    add_three()
    file = object_file(empty_cache)
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.write_bytes(damage(whole))
    forget_memory(monkeypatch)
    assert add_three().origin == "compiled"
    forget_memory(monkeypatch)
    assert add_three().origin == "disk"


def test_a_needed_function_that_is_not_there_counts_as_absent(empty_cache):
    entry = cache.Entry("entry", ("no_such_function_anywhere",), b"code")
    key = "0" * 64
    assert cache.write("kernel", key, "source", entry)
    assert cache.read("kernel", key) == entry
    assert llvm.link(entry.symbol, entry.needs, entry.code) is None


def test_a_place_that_cannot_be_written_warns_once_and_works(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("not a directory")
    forget_memory(monkeypatch)
    with config.scope(cache_dir=file / "cache"):
        with pytest.warns(RuntimeWarning, match=r"file.cache.*HYBRIDML_CACHE_DIR"):
            assert add_three().origin == "compiled"
        forget_memory(monkeypatch)
        assert add_three().origin == "compiled"  # and no second warning, which would be an error here
        assert add_three().origin == "memory"
        assert cache.info().kernels == 0
        assert cache.clear() == 0


def test_a_full_disk_leaves_nothing_half_written(empty_cache, monkeypatch):
    def full(source, destination):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert add_three().origin == "compiled"
    assert list((empty_cache / "kernels").iterdir()) == []


@pytest.mark.parametrize("step", ["replace", "fdopen"])
def test_an_interrupt_leaves_nothing_half_written(empty_cache, monkeypatch, step):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            jit.load(SOURCE, "add_three").address  # noqa: B018  # asking compiles it
    assert list((empty_cache / "kernels").iterdir()) == []
    add_three()
    assert object_file(empty_cache).stat().st_size


def test_info_and_clear(empty_cache, monkeypatch):
    assert cache.info() == cache.Info(empty_cache / "kernels", 0, 0)
    add_three()
    info = cache.info()
    assert info.kernels == 1
    assert info.bytes > len(SOURCE)
    (empty_cache / "kernels" / "left_over.tmp").write_bytes(b"of a killed process")
    assert cache.clear() == 1
    assert list((empty_cache / "kernels").iterdir()) == []
    forget_memory(monkeypatch)
    assert add_three().origin == "compiled"


def test_a_process_killed_while_it_fills_the_cache_harms_no_other(tmp_path, fresh_process):
    import subprocess
    import sys

    filler = (
        "from hybridml.kernels import jit\n"
        "for n in range(10_000):\n"
        "    jit.load(f'def filler(args, begin, end):\\n    args[0] = {n}\\n', 'filler').address\n"
        "    print(n, flush=True)\n"
    )
    environ = dict(
        os.environ, PYTHONPATH=str(Path(jit.__file__).parents[2]), HYBRIDML_CACHE_DIR=str(tmp_path / "cache")
    )
    with subprocess.Popen([sys.executable, "-c", filler], env=environ, stdout=subprocess.PIPE) as process:
        for _ in range(3):
            assert process.stdout.readline()
        process.kill()
    reader = (
        "from hybridml.kernels import jit\n"
        "for n in range(6):\n"
        "    jit.load(f'def filler(args, begin, end):\\n    args[0] = {n}\\n', 'filler')\n"
        "print(jit.stats().loaded_from_disk, jit.stats().compiled)\n"
    )
    loaded, compiled = map(int, fresh_process(reader).split())
    assert loaded >= 3
    assert loaded + compiled == 6
