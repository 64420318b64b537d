"""`make chart-test`: lint deploy/helm/fastgw, render it for each case, hold it to golden files and to schemas.

python -m tests.chart [--update]

Helm is the one in PATH, or is built from its Go module into the cache directory. Where neither Helm nor Go is, that is
said, and nothing is tested. `--update` writes the golden files anew.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

from fastgw.settings import load_settings
from fastgw.settings.table import Role

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CHART: Final = ROOT / "deploy" / "helm" / "fastgw"
HERE: Final = Path(__file__).parent
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgw-helm"
HELM: Final = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBERNETES: Final = "1.34"
_FOREIGN: Final = frozenset({"monitoring.coreos.com/v1"})
"""Kinds that Kubernetes itself does not know."""
_REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "postgres.host": (),
    "additional (property|properties)": ("postgres.host=db", "dataPlane.replica=2"),
    "dataPlane.controlPlane": ("controlPlane.enabled=false",),
    "terminationGracePeriodSeconds": ("postgres.host=db", "dataPlane.preStopSeconds=40"),
    "propertyNames|not allowed|pg_password": ("postgres.host=db", "settings.pg_password=secret"),
}
"""A part of what is said, and the values that it is said about."""


class ChartTestFailed(Exception):
    """The chart is not what it must be."""


def main() -> int:
    """Run it; the exit code says whether all holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the golden files")
    update = parser.parse_args().update
    helm = find_helm()
    if helm is None:
        print("chart test: skipped, there is neither helm nor go")
        return 0
    try:
        for case in sorted((HERE / "cases").glob("*.yaml")):
            run(helm, "lint", "--strict", "--quiet", str(CHART), "-f", str(case))
            rendered = render(helm, case)
            check_golden(HERE / "golden" / case.name, rendered, update=update)
            documents = [document for document in yaml.safe_load_all(rendered) if document]
            check_schemas(documents)
            check_settings(documents)
            print(f"  {case.stem}: {len(documents)} documents")
        check_refusals(helm)
    except ChartTestFailed as error:
        print(f"chart test: {error}", file=sys.stderr)
        return 1
    print("chart test: all holds")
    return 0


def find_helm() -> str | None:
    """Find Helm, or build it."""
    found = shutil.which("helm")
    if found is not None:
        return found
    built = CACHE / HELM.rpartition("@")[2] / "helm"
    if not built.exists():
        if shutil.which("go") is None:
            return None
        built.parent.mkdir(parents=True, exist_ok=True)
        run("go", "install", HELM, GOBIN=str(built.parent))
    return str(built)


def run(*command: str, **extra: str) -> str:
    """Run a command to its end; what it prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, env={**os.environ, **extra}
    )
    if done.returncode:
        raise ChartTestFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def render(helm: str, case: Path) -> str:
    return run(
        helm, "template", "gateway", str(CHART), "--kube-version", f"{KUBERNETES}.0", "--is-upgrade=false", "-f", str(case)
    )  # fmt: skip


def check_golden(path: Path, rendered: str, *, update: bool) -> None:
    """Hold what was rendered to the file, or write it."""
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(rendered)
        return
    wanted = path.read_text() if path.exists() else ""
    if rendered != wanted:
        difference = difflib.unified_diff(
            wanted.splitlines(), rendered.splitlines(), str(path), "rendered", lineterm="", n=2
        )
        raise ChartTestFailed(
            "\n".join(["not the golden file (make chart-test ARGS=--update):", *difference])
        )


def check_schemas(documents: list[dict[str, Any]]) -> None:
    """Hold every document to the schema of its kind; nothing but what is known there may stand in it."""
    for document in documents:
        if document["apiVersion"] in _FOREIGN:
            continue
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise ChartTestFailed(
                f"{document['kind']} {document['metadata']['name']}: {error.message}"
            ) from None


def containers_of(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All containers of all pods, of jobs too."""
    for document in documents:
        if document["kind"] in ("Deployment", "Job"):
            pod = document["spec"]["template"]["spec"]
            yield from pod.get("initContainers", ())
            yield from pod["containers"]


def check_settings(documents: list[dict[str, Any]]) -> None:
    """Every variable is a property, with a value that it takes; and no secret stands in clear."""
    for container in containers_of(documents):
        environ = {item["name"]: item.get("value", "from-a-secret") for item in container["env"]}
        role: Role = "data_plane" if environ["FASTGW_ROLE"] == "data_plane" else "control_plane"
        settings = load_settings(role, environ=environ)
        unwanted = [
            warning for warning in settings.warnings if "reachable from other machines" not in warning
        ]
        if unwanted:
            raise ChartTestFailed(f"{container['name']}: {unwanted}")
        for item in container["env"]:
            if re.search("PASSWORD", item["name"]) and "value" in item:
                raise ChartTestFailed(f"{container['name']}: {item['name']} in clear")


def check_refusals(helm: str) -> None:
    """What cannot work is refused when it is rendered, by name."""
    for said, values in _REFUSED.items():
        sets = [word for value in values for word in ("--set", value)]
        try:
            run(helm, "template", "gateway", str(CHART), "--kube-version", f"{KUBERNETES}.0", *sets)
        except ChartTestFailed as error:
            if re.search(said, str(error)) is None:
                raise ChartTestFailed(f"{values} is refused without {said!r}: {error}") from None
        else:
            raise ChartTestFailed(f"{values} is not refused")


if __name__ == "__main__":
    sys.exit(main())
