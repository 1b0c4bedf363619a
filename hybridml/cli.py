"""The command line: `hybridml compare`, `hybridml doctor`, `hybridml cache`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    p = argparse.ArgumentParser(prog="hybridml", description="Eager by default, traced on request.")
    commands = p.add_subparsers(required=True, metavar="COMMAND")

    c = commands.add_parser("compare", help="eager against traced: table, plots and JSON")
    c.add_argument(
        "--workload", action="append", metavar="NAME", help="one of them (may be repeated); default: all"
    )
    c.add_argument("--list", action="store_true", help="show the workloads and stop")
    c.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    c.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="where plots and JSON go (default: out)"
    )
    c.add_argument("--calls", type=_positive, nargs="+", default=None, metavar="N", help="default: 10 1000")
    c.add_argument("--quick", action="store_true", help="fewer calls (10 100) and fewer repetitions")
    c.set_defaults(run=_compare)

    d = commands.add_parser("doctor", help="what is installed, what is missing, and how to cure it")
    d.set_defaults(run=_doctor)

    k = commands.add_parser("cache", help="the compiled kernels on disk")
    k.add_argument(
        "action",
        choices=("info", "clear", "warm"),
        help="warm compiles ahead what nearly every program needs",
    )
    k.set_defaults(run=_cache)
    return p


def _positive(text: str) -> int:
    try:
        n = int(text)
    except ValueError:
        n = 0
    if n < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return n


def _console(**options: Any) -> Any:
    from rich.console import Console

    return Console(**options)


def _fail(message: str) -> int:
    from rich.markup import escape

    _console(stderr=True).print(f"hybridml: {escape(message)}", soft_wrap=True, highlight=False)
    return 2


def _compare(args: argparse.Namespace) -> int:
    import hybridml as hml
    from hybridml.compare.measure import measure
    from hybridml.compare.progress import Progress
    from hybridml.compare.report import Report
    from hybridml.compare.workloads import WORKLOADS

    console = _console()
    if args.list:
        for w in WORKLOADS.values():
            console.print(f"{w.name:20} {w.title}", highlight=False)
        return 0
    names = args.workload or list(WORKLOADS)
    unknown = [n for n in names if n not in WORKLOADS]
    if unknown:
        return _fail(f"no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    if f"{args.device}:0" not in hml.devices():
        return _fail(
            f"no device {args.device!r} here; there are {', '.join(hml.devices())}. Run: hybridml doctor"
        )
    calls = args.calls or ([10, 100] if args.quick else [10, 1000])
    results = []
    with Progress() as progress:
        for name in names:
            try:
                found = measure(
                    WORKLOADS[name], calls=calls, rounds=5 if args.quick else 15, progress=progress
                )
            except ImportError as error:  # a workload's data may come with a package that is not there
                if len(names) == 1:
                    return _fail(str(error))
                console.print(f"leaving out {name}: {error}", highlight=False)
                continue
            results.append(found)
    report = Report(results)
    console.print(report.table())
    for line in report.problems():
        console.print(f"[red]{line}[/red]")
    written = [args.out / "compare.json", args.out / "compare.png", args.out / "compare.svg"]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        report.to_json(written[0])
        report.plot(args.out / "compare")
    except OSError as error:
        return _fail(
            f"cannot write to {args.out}: {error.strerror or error}; choose another folder with --out"
        )
    console.print("written: " + ", ".join(map(str, written)), soft_wrap=True, highlight=False)
    return int(bool(report.problems()))


def _doctor(args: argparse.Namespace) -> int:
    from hybridml.doctor import show

    return show(_console())


def _cache(args: argparse.Namespace) -> int:
    from hybridml.kernels import cache

    info = cache.info()
    if args.action == "clear":
        try:
            cleared = cache.clear()
        except OSError as error:
            return _fail(f"cannot clear {info.directory}: {error.strerror or error}")
        _console().print(f"{info.directory}: {cleared} kernels deleted", soft_wrap=True, highlight=False)
    elif args.action == "warm":
        from hybridml.kernels.warm import warm

        loads = warm()
        made = [x for x in loads if x.origin == "compiled"]
        took = f"{len(made)} kernels compiled in {sum(x.seconds for x in made):.1f} s"
        text = f"{info.directory}: {took}, {len(loads) - len(made)} were there"
        _console().print(text, soft_wrap=True, highlight=False)
    else:
        text = f"{info.directory}: {info.kernels} kernels, {info.bytes / 1e6:.2f} MB"
        _console().print(text, soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
