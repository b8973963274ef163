"""Dockerfile and compose file, as far as they can be checked without building or starting them."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deployments"
DOCKERFILE = (HERE / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
COMPOSE_TEXT = (HERE / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
EXAMPLE_TEXT = (HERE / ".env.example").read_text()
EXAMPLE = dict(
    line.split("=", 1) for line in EXAMPLE_TEXT.splitlines() if line and not line.startswith("#")
)
SECRETS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MINIO_ROOT_PASSWORD",
    "MINIO_ROOT_USER",
    "POSTGRES_PASSWORD",
    "PREFECT_API_AUTH_STRING",
}
ROOT_KEY = {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"}

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


def test_base_images_are_the_only_choice_of_a_build():
    """Everything else is decided by the commit that is built; a digest can be given with each."""
    assert [line.split("=")[0] for line in instructions("ARG")] == ["PYTHON_IMAGE", "BASE_IMAGE"]
    assert all(line.startswith("${") for line in instructions("FROM"))


def test_image_installs_nothing_that_is_not_locked_by_its_hash():
    """A package index that is broken into serves other files under the same names."""
    installs = [
        each.strip()
        for line in instructions("RUN")
        for each in re.split(r"&&|;|\bthen\b|\belse\b", line)
        if "pip install" in each
    ]
    unlocked = [each for each in installs if "--require-hashes" not in each]

    assert len(installs) == 5
    assert all("--no-deps" in each for each in installs)
    # The wheel that was made here, and torch's build without CUDA, whose hashes PyPI does not have.
    assert sorted("/wheel/" in each for each in unlocked) == [False, True]
    assert sum("download.pytorch.org" in each for each in unlocked) == 1


def locked(name):
    """Return version and number of hashes of each package of a file of locked versions."""
    text = (HERE / "locks" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line]
    for line in lines:
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in line[1:]), line[0]
    return {line[0].split("==")[0]: (line[0].split("==")[1], len(line) - 1) for line in lines}


@pytest.mark.parametrize("name", ["image", "torch", "build"])
def test_every_locked_package_has_hashes(name):
    """Pip refuses the whole file for the sake of one that has none."""
    assert all(count > 0 for _, count in locked(name).values())


def test_image_has_the_versions_that_the_tests_run_with():
    """Other versions may compute other bits, and some stop Prefect's server or its schedules."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and line[0] != "#"]
    pins = {canonicalize_name(name): version for name, version in pairs}
    image = {name: version for name, (version, _) in locked("image").items()}

    assert {name: pins[name] for name in image} == image
    assert locked("torch")["torch"][0] == pins["torch"]


def test_image_has_all_that_the_core_and_s3_need():
    """With --no-deps nothing else is installed, and what is missing shows on a cluster."""
    found, waiting = set(), {("metagradient-descent", "s3"), ("metagradient-descent", "")}
    seen = set()
    while waiting:
        name, extra = each = waiting.pop()
        seen.add(each)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                found.add(canonicalize_name(needed.name))
                waiting |= {(needed.name, more) for more in ["", *needed.extras]} - seen

    assert found - set(locked("image")) - set(locked("torch")) == set()


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


def mounts(service):
    return [mount.split(":") for mount in service.get("volumes", [])]


@each_service
def test_mount_is_a_declared_volume_or_a_file_of_the_repository(service):
    """What outlives a container lies in a named volume; a folder would also show ``.env``."""
    for source, *_ in mounts(service):
        assert source in COMPOSE["volumes"] or (HERE / source).exists()
        assert source != "."
        assert not source.startswith("./.")


def test_every_volume_is_mounted():
    """A volume that nothing mounts is a slip in a name."""
    sources = {source for each in SERVICES.values() for source, *_ in mounts(each)}

    assert {source for source in sources if source[0] != "."} == set(COMPOSE["volumes"])


def test_setup_has_all_that_its_commands_read():
    """It is given single files, so one that a script imports may be forgotten."""
    given = {target for _, target, *_ in mounts(SERVICES["setup"])}
    script = SERVICES["setup"]["command"][-1]

    modules = re.findall(r"deployments\.(\w+)", script)
    files = {f"deployments/{module}.py" for module in modules} | {"deployments/pools"}
    files |= set(re.findall(r"deployments/[\w.]+", script))
    assert {f"/srv/{name}" for name in files} <= given
    assert "mgd deploy --all --pool mgd-process" in script  # the pool of the worker beside it


@each_service
def test_service_is_confined(service):
    """A hole in one of them must not be one in the machine."""
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit"} <= set(service)
    assert "privileged" not in service
    assert not set(service.get("cap_add", [])) & {"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"}


@each_service
def test_root_key_of_the_store_is_known_to_two_services(service):
    """A worker runs whatever a deployment says; it gets a key for one bucket."""
    is_store = service["image"].startswith("${MGD_S3_IMAGE")

    assert set(service["environment"]) >= ROOT_KEY if is_store else True
    assert is_store or not any(name in str(service) for name in ROOT_KEY)


@pytest.mark.parametrize("name", ["setup", "worker"])
def test_server_asks_for_a_log_in_and_clients_have_it(name):
    """Whoever reaches the API can start processes on the workers."""
    server = SERVICES["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    client = SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"]

    assert re.findall(r"\w+", server)[0] == re.findall(r"\w+", client)[0]
    assert client.startswith("${PREFECT_API_AUTH_STRING:?")


def test_variables_are_those_of_the_example():
    """A variable that the example does not name is one that nobody sets."""
    assert set(re.findall(r"\${(\w+)", COMPOSE_TEXT)) == set(EXAMPLE)


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_secret_is_in_no_file_and_its_absence_stops_the_start(secret):
    """A default password is the one that is used."""
    assert EXAMPLE[secret] == ""
    assert f"${{{secret}:?" in COMPOSE_TEXT
    assert f"${{{secret}:-" not in COMPOSE_TEXT


def test_env_file_is_copied_for_its_owner_alone():
    """``cp`` would leave the secrets readable by everybody on the machine."""
    readme = (HERE / "README.md").read_text()
    command = "install -m 600 deployments/.env.example deployments/.env"

    assert all(command in text for text in (readme, COMPOSE_TEXT, EXAMPLE_TEXT))
    assert not re.search(r"\bcp\b.*\.env", readme + COMPOSE_TEXT + EXAMPLE_TEXT)


def test_env_file_with_secrets_is_not_committed():
    """The example is copied to it, and filled in."""
    assert (HERE / ".gitignore").read_text().splitlines() == [".env"]


def test_published_port_is_for_this_machine_alone():
    """Its traffic is not encrypted."""
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
