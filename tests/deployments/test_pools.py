"""Base job templates, as far as they can be checked without a cluster, a docker or a server."""

import asyncio
import json
import uuid
from importlib.resources import files

import jsonschema
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.utilities.templating import apply_values, find_placeholders

from deployments import pools
from tests.deployments.targets import TEMPLATES, job_variables, job_variables_without_gpu

PREFECTS_OWN = json.loads(
    (
        files("prefect.server.api") / "collections_data/views/aggregate-worker-metadata.json"
    ).read_text()
)
PACKAGES = {"process": "prefect", "docker": "prefect-docker", "kubernetes": "prefect-kubernetes"}

FIXED = {"docker": {"privileged", "volumes", "network_mode"}}
"""Variables of Prefect's own that a run must not have: each makes it root on the machine."""

each_kind = pytest.mark.parametrize("kind", PACKAGES)


def values(kind, **changes):
    """Return the job variables of a deployment, with the template's defaults, as a worker does."""
    properties = TEMPLATES[kind]["variables"]["properties"]
    defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
    return defaults | job_variables(kind) | {"image": "mgd:1"} | changes


def manifest(**changes):
    """Fill in the Kubernetes job by Prefect's templating alone."""
    job = TEMPLATES["kubernetes"]["job_configuration"]["job_manifest"]
    return apply_values(job, values("kubernetes", **changes))


def container(job):
    return job["spec"]["template"]["spec"]["containers"][0]


def test_every_kind_of_pool_has_a_template():
    """A pool without one would get Prefect's own, without GPUs."""
    assert set(TEMPLATES) == set(PACKAGES)


@each_kind
def test_variables_are_a_json_schema(kind):
    """The server refuses job variables by this schema, so it must be one."""
    jsonschema.Draft202012Validator.check_schema(TEMPLATES[kind]["variables"])


@each_kind
def test_placeholders_are_the_variables(kind):
    """A placeholder without a variable is left out in silence; the reverse does nothing."""
    used = {each.name for each in find_placeholders(TEMPLATES[kind]["job_configuration"])}

    assert used == set(TEMPLATES[kind]["variables"]["properties"])


@each_kind
def test_template_has_all_that_prefects_own_has(kind):
    """A worker reads what it knows; a key that is missing here is a setting that does not work."""
    own = PREFECTS_OWN[PACKAGES[kind]][kind]["default_base_job_configuration"]
    ours, fixed = TEMPLATES[kind], FIXED.get(kind, set())

    assert set(own["job_configuration"]) - {"network_mode"} <= set(ours["job_configuration"])
    assert set(own["variables"]["properties"]) - fixed == set(own["variables"]["properties"]) & set(
        ours["variables"]["properties"]
    )


@each_kind
def test_deployments_job_variables_are_valid(kind):
    """The server would refuse them at the deployment."""
    jsonschema.validate(values(kind), TEMPLATES[kind]["variables"])


@each_kind
def test_job_variables_without_a_gpu_are_valid(kind):
    """House-keeping needs no GPU, and waits for none."""
    jsonschema.validate(
        values(kind, **job_variables_without_gpu(kind)), TEMPLATES[kind]["variables"]
    )


@each_kind
def test_defaults_are_valid(kind):
    """A default is not checked by anybody else."""
    schema = TEMPLATES[kind]["variables"]
    defaults = {name: p["default"] for name, p in schema["properties"].items() if "default" in p}

    jsonschema.validate(defaults, schema | {"required": []})


@pytest.mark.parametrize(
    ("kind", "variable", "value"),
    [
        ("kubernetes", "gpus", 99),
        ("kubernetes", "shm_size", "lots"),
        ("kubernetes", "deadline_seconds", 0),
        ("docker", "shm_size", "2Gi"),
        ("docker", "device_requests", [{"Count": 1}]),
    ],
)
def test_impossible_job_variable_is_refused(kind, variable, value):
    """A slip is told when it is typed, not when a node has been rented."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values(kind, **{variable: value}), TEMPLATES[kind]["variables"])


def test_kubernetes_job_asks_for_its_gpu_memory_and_deadline():
    """These decide about the bill."""
    job = manifest(gpu_product="NVIDIA-H100-80GB-HBM3", deadline_seconds=600, shm_size="4Gi")

    pod = job["spec"]["template"]["spec"]
    limits = container(job)["resources"]["limits"]
    assert limits == {"memory": "16Gi", "nvidia.com/gpu": 1}
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
    assert job["spec"]["activeDeadlineSeconds"] == 600


def test_any_gpu_will_do_when_none_is_named():
    """A selector with an empty value would fit no node, and the pod would wait for ever."""
    assert manifest()["spec"]["template"]["spec"]["nodeSelector"] == {}


def test_kubernetes_leaves_retries_to_prefect():
    """A second pod of one job beside a rescheduled run would do every stage twice."""
    spec = manifest()["spec"]

    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "podFailurePolicy" not in spec


def test_store_credentials_come_from_a_secret_of_the_cluster():
    """In the job's variables they would be stored and shown in clear by Prefect's server."""
    assert container(manifest())["envFrom"] == [
        {"secretRef": {"name": "mgd-store", "optional": True}}
    ]


def test_docker_container_gets_shared_memory_and_a_gpu():
    """Neither has a setting of its own in Prefect's template."""
    job = apply_values(TEMPLATES["docker"]["job_configuration"], values("docker"))

    created = job["container_create_kwargs"]
    assert created["shm_size"] == "2g"
    assert created["device_requests"] == [
        {"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}
    ]


def test_docker_run_cannot_become_root_on_the_machine():
    """Whoever may start a run would otherwise mount the machine's disk, as root."""
    asked = {"privileged": True, "volumes": ["/:/host"], "network_mode": "host"}

    job = apply_values(TEMPLATES["docker"]["job_configuration"], values("docker", **asked))

    assert job["privileged"] is False
    assert job["volumes"] == ["mgd-credentials:/home/mgd/.aws:ro"]
    assert "network_mode" not in job
    created = job["container_create_kwargs"]
    assert created["user"] == "10001"
    assert created["cap_drop"] == ["ALL"]
    assert created["security_opt"] == ["no-new-privileges:true"]
    assert created["pids_limit"] == 4096
    assert job["mem_limit"] == "16g"


@pytest.mark.parametrize("gpus", [0, 1])
def test_kubernetes_pod_is_let_in_where_the_restricted_standard_is_enforced(gpus):
    """A namespace that enforces Kubernetes' strictest standard refuses a pod that lacks any."""
    pod = manifest(gpus=gpus)["spec"]["template"]["spec"]
    (only,) = pod["containers"]

    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert only["securityContext"]["allowPrivilegeEscalation"] is False
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])
    assert not any("hostPort" in port for port in only.get("ports", []))


def test_kubernetes_limits_and_a_root_that_cannot_be_written_are_variables():
    """A site that demands them sets them; what a run writes has places of its own."""
    asked = {"read_only_root": True, "cpu_limit": "4", "ephemeral_storage_limit": "20Gi"}

    only = container(manifest(**asked))

    assert only["securityContext"]["readOnlyRootFilesystem"] is True
    assert only["resources"]["limits"]["cpu"] == "4"
    assert only["resources"]["limits"]["ephemeral-storage"] == "20Gi"
    writable = {mount["mountPath"] for mount in only["volumeMounts"]}
    assert writable == {"/dev/shm", "/tmp", "/home/mgd"}


@pytest.fixture
def job(prefect_server):
    """The job that Prefect's Kubernetes worker would send to a cluster."""
    worker = pytest.importorskip(
        "prefect_kubernetes.worker", reason="the extra kubernetes is not installed"
    )
    configuration = asyncio.run(
        worker.KubernetesWorkerJobConfiguration.from_template_and_values(
            TEMPLATES["kubernetes"], job_variables("kubernetes") | {"image": "mgd:1"}
        )
    )
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="some-run")
    configuration.prepare_for_flow_run(run, flow=Flow(name="descent"))
    return configuration.job_manifest


@pytest.mark.slow
def test_kubernetes_worker_keeps_what_the_template_says(job):
    """The worker adds to the manifest on its way to the cluster."""
    environment = {each["name"]: each.get("value") for each in container(job)["env"]}

    assert container(job)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container(job)["args"] == ["prefect", "flow-run", "execute"]
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


@pytest.mark.slow
def test_kubernetes_would_take_the_job(job):
    """Prefect's own template has keys in the wrong place, which a strict cluster refuses."""
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")

    schemas.validate(job, schemas.latest_version(), strict=True)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_docker_worker_reads_the_template():
    """The worker's own model is the last word on its keys."""
    worker = pytest.importorskip(
        "prefect_docker.worker", reason="the extra docker is not installed"
    )

    configuration = asyncio.run(
        worker.DockerWorkerJobConfiguration.from_template_and_values(
            TEMPLATES["docker"], job_variables("docker") | {"image": "mgd:1"}
        )
    )

    assert configuration.container_create_kwargs["shm_size"] == "2g"
    assert configuration.volumes == ["mgd-credentials:/home/mgd/.aws:ro"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_pools_and_limits_are_brought_up_to_date():
    """The script is run again after every change of a template, on a server that is in use."""
    with get_client(sync_client=True) as client:
        pools.main(["--gpus", "1"])
        before = {pool.name: pool.id for pool in client.read_work_pools()}
        pools.main(["--gpus", "4"])

        found = {pool.name: pool for pool in client.read_work_pools()}
        limit = client.read_concurrency_limit_by_tag(pools.GPU_TAG)

    assert {name: pool.id for name, pool in found.items()} == before
    assert found["mgd-kubernetes"].base_job_template == TEMPLATES["kubernetes"]
    assert [found[f"mgd-{kind}"].concurrency_limit for kind in PACKAGES] == [1, 4, 4]
    assert limit.concurrency_limit == 4
