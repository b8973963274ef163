"""Dockerfile and compose file, as far as they can be checked without building or starting them."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deployments"
DOCKERFILE = (HERE / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
COMPOSE_TEXT = (HERE / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
EXAMPLE = dict(
    line.split("=", 1)
    for line in (HERE / ".env.example").read_text().splitlines()
    if line and not line.startswith("#")
)
SECRETS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD"}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def instructions(name):
    return [line.split(None, 1)[1] for line in DOCKERFILE if line.startswith(f"{name} ")]


def copied():
    """Return what COPY takes out of the repository."""
    return [source for line in instructions("COPY") for source in line.split()[:-1]]


@pytest.mark.parametrize("source", copied())
def test_dockerfile_copies_what_is_there_and_not_ignored(source):
    """A build fails late and elsewhere, on the machine of whoever deploys."""
    kept = (HERE / "Dockerfile.dockerignore").read_text().splitlines()

    assert (ROOT / source).exists()
    assert f"!{source}" in kept


def test_dockerfile_copies_all_that_the_wheel_is_made_of():
    """A wheel without the recipes can be built, and fails when it is run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}

    assert needed | {*project["project"]["license-files"], "pyproject.toml"} <= set(copied())


def test_image_does_not_run_as_root_and_hands_signals_on():
    """Prefect reschedules a run when it is told that the machine goes away: it must hear of it."""
    job = json.loads((HERE / "pools" / "kubernetes.json").read_text())
    pod = job["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]

    assert instructions("USER") == [str(pod["securityContext"]["runAsUser"])]
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["tini", "--"]


def test_base_image_is_the_only_choice_of_a_build():
    """Everything else is decided by the commit that is built."""
    assert [line.split("=")[0] for line in instructions("ARG")] == ["BASE_IMAGE"]


def test_image_installs_the_locked_versions():
    """Other versions may compute other bits, and some FastAPI stop Prefect's server."""
    installs = [line for line in instructions("RUN") if "/wheel/*.whl" in line]

    assert len(installs) == 1
    assert "-c /opt/constraints.txt" in installs[0]


def test_compose_has_the_whole_platform():
    """Server, database, store and worker: nothing else is needed for a first run."""
    assert set(SERVICES) == {"database", "server", "s3", "bucket", "setup", "worker"}


@each_service
def test_service_waits_for_services_that_can_be_waited_for(service):
    """A condition on a check that is missing is an error when everything is started."""
    waits = service.get("depends_on", {})
    healthy = {name for name, each in waits.items() if each["condition"] == "service_healthy"}
    ended = {
        name
        for name, each in waits.items()
        if each["condition"] == "service_completed_successfully"
    }

    assert set(waits) <= set(SERVICES)
    assert all("healthcheck" in SERVICES[name] for name in healthy)
    assert all(SERVICES[name]["restart"] == "no" for name in ended)


@each_service
def test_mount_is_a_declared_volume_or_a_folder_of_the_repository(service):
    """What has to outlive a container lies in a named volume, none of it in a folder."""
    sources = {mount.split(":")[0] for mount in service.get("volumes", [])}

    assert sources - {"."} <= set(COMPOSE["volumes"])


def test_every_volume_is_mounted():
    """A volume that nothing mounts is a slip in a name."""
    mounts = [mount for each in SERVICES.values() for mount in each.get("volumes", [])]

    assert {mount.split(":")[0] for mount in mounts} - {"."} == set(COMPOSE["volumes"])


def test_variables_are_those_of_the_example():
    """A variable that the example does not name is one that nobody sets."""
    assert set(re.findall(r"\${(\w+)", COMPOSE_TEXT)) == set(EXAMPLE)


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_secret_is_in_no_file_and_its_absence_stops_the_start(secret):
    """A default password is the one that is used."""
    assert EXAMPLE[secret] == ""
    assert f"${{{secret}:?" in COMPOSE_TEXT
    assert f"${{{secret}:-" not in COMPOSE_TEXT


def test_env_file_with_secrets_is_not_committed():
    """The example is copied to it, and filled in."""
    assert (HERE / ".gitignore").read_text().splitlines() == [".env"]


def test_published_port_is_for_this_machine_alone():
    """Prefect's own server has no log-in."""
    ports = [port for each in SERVICES.values() for port in each.get("ports", [])]

    assert ports == ["127.0.0.1:${PREFECT_PORT:-4200}:4200"]


def test_docker_compose_accepts_the_file():
    """Its own parser knows more than these tests do."""
    compose = [shutil.which("docker") or "docker", "compose"]
    if (
        not shutil.which("docker")
        or subprocess.run([*compose, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    secrets = dict.fromkeys(SECRETS, "secret")

    checked = subprocess.run(
        [*compose, "-f", HERE / "compose.yaml", "config", "--quiet"],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin"} | EXAMPLE | secrets,
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert checked.returncode == 0, checked.stderr
