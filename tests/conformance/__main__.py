"""`python -m tests.conformance`: the survey, the lives, and every difference with what explains it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.native.stack import PROJECT, Stack
from server.schema.compilation import compile_app
from server.schema.reading import read
from tests import google_apis
from tests.conformance import seeds
from tests.conformance.apis import APIS, Api
from tests.conformance.differences import explained
from tests.conformance.groups import grouped, paths
from tests.conformance.lives import Life, Step, failed
from tests.conformance.roads import client
from tests.conformance.survey import surveyed

PARTS = ("postgres", "redis", "s3", "schema", "migrate", "seed", "api", "envoy")
"""Of the system: all that answers calls."""


def main() -> int:
    """0 where every difference is explained."""
    parser = argparse.ArgumentParser(prog="make conformance")
    parser.add_argument("--only", default="", help="APIs whose folder holds this")
    parser.add_argument("--no-survey", action="store_true", help="lives only")
    asked = parser.parse_args()
    if not asked.no_survey:
        _survey()
    apis = [a for a in APIS if asked.only in a.folder]
    steps = [step for group in _groups(apis) for step in _lived(group)]
    return _report(apis, steps)


def _survey() -> None:
    found = surveyed()
    print(f"\n{google_apis.PACKAGE}: {found.packages} packages, {found.services} services, {found.methods} methods")
    share = 100 * found.recognised / found.sounding
    print(f"sound standard: {found.sounding}; recognised: {found.recognised} ({share:.1f} %)")
    print("  " + ", ".join(f"{kind} {count}" for kind, count in found.kinds.most_common()))
    print("not recognised:")
    for reason, count in found.reasons.most_common():
        print(f"  {count:4d}  {reason}")
    for folder, fault in found.refused.items():
        print(f"  not served: {folder}: {fault}")


def _groups(apis: Sequence[Api]) -> list[list[Api]]:
    by_folder = {a.folder: a for a in apis}
    found = []
    for api in apis:
        with TemporaryDirectory() as place:
            found.append((api.folder, paths(read(compile_app(google_apis.app(Path(place) / "app", [api.folder]))))))
    return [[by_folder[folder] for folder in group] for group in grouped(found)]


def _lived(apis: Sequence[Api]) -> list[Step]:
    with TemporaryDirectory(prefix="transom-google-") as folder:
        Path(folder).chmod(0o755)
        app = google_apis.app(Path(folder) / "app", [a.folder for a in apis])
        schema = read(compile_app(app))
        seeds.write(app, schema, {a.package for a in apis})
        with Stack(Path(folder) / "state", app=app, parts=PARTS).running() as stack:
            command = [sys.executable, "-m", "server.cli", "key", "create", "--title", "conformance"]
            made = subprocess.run(
                command, cwd=PROJECT, env=os.environ | stack.env, check=True, capture_output=True, text=True
            )
            edge, key = stack.edge.removeprefix("http://"), made.stdout.strip()
            steps = []
            for api in apis:
                for road in ("gRPC", "REST"):
                    clients: dict[str, object] = {}

                    def of(
                        service: str, api: Api = api, road: str = road, known: dict[str, object] = clients
                    ) -> object:
                        if service not in known:
                            known[service] = client(api.module, service, road, edge, key)
                        return known[service]

                    steps += Life(schema, api.package, api.module, road, of).steps()
            return steps


def _report(apis: Sequence[Api], steps: Sequence[Step]) -> int:
    print(f"\n{'API':42} {'road':5} {'resources':>9} {'steps':>6} {'as expected':>12} {'explained':>10}   style")
    unexplained = []
    for api in apis:
        for road in ("gRPC", "REST"):
            mine = [s for s in steps if (s.api, s.road) == (api.package, road)]
            faults = list(failed(mine))
            unexplained += [s for s in faults if not explained(s)]
            known = sum(bool(explained(s)) for s in faults)
            resources = len({s.resource for s in mine})
            print(
                f"{api.package:42} {road:5} {resources:9} {len(mine):6} {len(mine) - len(faults):12} {known:10}   {api.style}"
            )
    listed = sorted({(s.api, s.resource, s.verb, explained(s)) for s in failed(list(steps)) if explained(s)})
    print(f"\nDifferences that are explained: {len(listed)}")
    for api_, resource, verb, why in listed:
        print(f"  {api_} {resource}: {verb}: {why}")
    print(f"\nDifferences that are not: {len(unexplained)}")
    for step in unexplained:
        print(f"  {step.api} over {step.road}: {step.resource}: {step.verb}: {step.fault[:400]}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
