# SPDX-License-Identifier: Apache-2.0
"""./check: installs what is missing, builds, runs the suites; the last line is `N passed, N failed, N skipped`."""
import argparse
import os
import sys

import packages
import suites
from report import Report

EPILOG = "suites:\n" + "\n".join(f"  {name:<12} {what}" for name, (what, _) in suites.SUITES.items()) + f"""
  quick        {', '.join(suites.GROUPS['quick'])}
  all          everything
Without a name: {', '.join(suites.DEFAULT)}. A failing suite does not stop the others; exit status 1 on any failure."""


def parse(arguments):
    parser = argparse.ArgumentParser(prog="check", description="Builds kiln and runs its tests.", epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="what to run, in this order")
    parser.add_argument("--werror", action="store_true", help="treat the compiler's warnings as errors")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count(), 4), metavar="N",
                        help="microVMs' tests to run at a time (default: %(default)s)")
    parser.add_argument("--fuzz-seconds", type=int, default=60, metavar="N", help="for each fuzzer (default: 60)")
    parser.add_argument("--soak-seconds", type=int, default=600, metavar="N", help="(default: 600)")
    parser.add_argument("--test", action="append", default=[], metavar="PATH[::NAME]",
                        help="of integration, only this; may be repeated")
    parsed = parser.parse_args(arguments)
    names = []
    for name in parsed.suites or (["integration"] if parsed.test else suites.DEFAULT):
        names += suites.GROUPS.get(name, [name])
    if unknown := [name for name in names if name not in suites.SUITES]:
        parser.error(f"no suite `{unknown[0]}`; there are {', '.join([*suites.SUITES, *suites.GROUPS])}")
    options = suites.Options(parsed.werror, parsed.jobs, parsed.fuzz_seconds, parsed.soak_seconds, tuple(parsed.test))
    return list(dict.fromkeys(names)), options


def main(arguments):
    names, options = parse(arguments)
    report = Report()
    try:
        packages.install(["build", "run", "test"])
    except packages.PackageError as error:
        # What is there may still be enough for some suites; each says what it lacks.
        print(f"check: {error}", file=sys.stderr)
    try:
        for name in names:
            what, body = suites.SUITES[name]
            report.run(name, what, lambda add, body=body: body(add, options))
    except KeyboardInterrupt:
        report.finish()
        return 130
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
