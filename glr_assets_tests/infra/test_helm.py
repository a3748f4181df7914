"""The chart's values, by the models of Kubernetes and the schemas of dagster-k8s and of the instance.

The chart itself comes from no package registry: helm, where it is installed and GLR_HELM_CHART names a chart, judges
the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config_schema

from glr_assets.defs.conventions import GPU_TAGS
from glr_assets_tests.infra.cluster import ROOT

pytest.importorskip("dagster_k8s")

VALUES = ROOT / "infra" / "helm" / "values.yaml"


@pytest.fixture
def values() -> dict[str, Any]:
    return dict(yaml.safe_load(VALUES.read_text()))


@pytest.fixture
def deployment(values: dict[str, Any]) -> dict[str, Any]:
    (one,) = values["dagster-user-deployments"]["deployments"]
    return dict(one)


def model(kind: str, document: dict[str, Any]) -> Any:
    """The document as Kubernetes' own model, which refuses keys that it does not know."""
    import kubernetes.client.models
    from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

    found = getattr(kubernetes.client.models, kind)
    return k8s_model_from_dict(found, k8s_snake_case_dict(found, document))


def test_pods_are_what_kubernetes_knows(values: dict[str, Any], deployment: dict[str, Any]) -> None:
    pods = [model("V1PodSecurityContext", deployment["podSecurityContext"])]
    launched = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    pods.append(model("V1PodSpec", {"containers": [], **launched["podSpecConfig"]}).security_context)
    assert all(pod.run_as_non_root and pod.run_as_user == 10001 for pod in pods)
    container = model("V1SecurityContext", deployment["securityContext"])
    assert container.allow_privilege_escalation is False
    assert container.capabilities.drop == ["ALL"]
    for resources in (
        deployment["resources"],
        values["dagsterWebserver"]["resources"],
        values["dagsterDaemon"]["resources"],
        launched["containerConfig"]["resources"],
    ):
        assert model("V1ResourceRequirements", resources).limits["memory"]
    volumes = {model("V1Volume", volume).name for volume in deployment["volumes"]}
    assert {model("V1VolumeMount", mount).name for mount in deployment["volumeMounts"]} == volumes
    assert model("V1JobSpec", {"template": {}, **launched["jobSpecConfig"]}).ttl_seconds_after_finished > 0


def test_a_misspelt_key_is_refused(deployment: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="runAsNonRot"):
        model("V1PodSecurityContext", {"runAsNonRot": True})
    with pytest.raises(Exception, match="emptyDirectory"):
        model("V1Volume", {"name": "x", "emptyDirectory": {}})


def test_runs_and_steps_are_what_dagster_k8s_launches(values: dict[str, Any]) -> None:
    """The launcher as the chart writes it into the instance, and a GPU step's own demands merged over it."""
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_user_defined_k8s_config

    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    keys = {
        "container_config": "containerConfig",
        "pod_spec_config": "podSpecConfig",
        "job_spec_config": "jobSpecConfig",
    }
    run = {key: launcher["runK8sConfig"][name] for key, name in keys.items()}
    config = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "dagster_home": "/opt/dagster/dagster_home",
        "image_pull_policy": launcher["imagePullPolicy"],
        "load_incluster_config": launcher["loadInclusterConfig"],
        "run_k8s_config": run,
    }
    checked = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), config)
    assert checked.success, checked.errors
    assert not process_config(
        resolve_to_config_type(K8sRunLauncher.config_type()), config | {"image_pull_polcy": "Always"}
    ).success

    import json

    tags = {key: json.dumps(value) for key, value in GPU_TAGS.items() if key == "dagster-k8s/config"}
    step = get_user_defined_k8s_config(tags)
    assert isinstance(step, UserDefinedDagsterK8sConfig)
    assert step.container_config["resources"]["limits"]["nvidia.com/gpu"] == "1"


def instance_of(values: dict[str, Any]) -> dict[str, Any]:
    """What the chart's template writes of these values into dagster.yaml, in Dagster's own names."""
    daemon = values["dagsterDaemon"]
    monitoring, retries = daemon["runMonitoring"], daemon["runRetries"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    return {
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": daemon["runCoordinator"]["type"],
            "config": {
                "dequeue_use_threads": queue["dequeueUseThreads"],
                "dequeue_num_workers": queue["dequeueNumWorkers"],
            },
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "cancel_timeout_seconds": monitoring["cancelTimeoutSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "run_retries": {"enabled": retries["enabled"], "max_retries": retries["maxRetries"]},
        "telemetry": values["telemetry"],
        "retention": {
            name: {"purge_after_days": values["retention"][key]["purgeAfterDays"]}
            for name, key in (("sensor", "sensor"), ("schedule", "schedule"), ("auto_materialize", "autoMaterialize"))
        },
        **values["additionalInstanceConfig"],
    }


def test_the_charts_instance_is_what_dagster_reads(values: dict[str, Any]) -> None:
    from dagster._core.instance.config import validate_concurrency_config

    instance = instance_of(values)
    validate_concurrency_config(instance)
    checked = process_config(resolve_to_config_type(dagster_instance_config_schema()), instance)
    assert checked.success, checked.errors
    spoilt = instance | {"freshness": {"enable": True}}
    assert not process_config(resolve_to_config_type(dagster_instance_config_schema()), spoilt).success


def test_the_code_location_is_the_one_for_pods(values: dict[str, Any], deployment: dict[str, Any]) -> None:
    from glr_assets import clusters

    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    assert f"DAGSTER_HOME={values['global']['dagsterHome']} " in dockerfile
    assert f"USER {deployment['podSecurityContext']['runAsUser']}\n" in dockerfile

    module, attribute = deployment["codeServerArgs"][1], deployment["codeServerArgs"][3]
    assert module == clusters.__name__
    assert hasattr(clusters, attribute)


def test_helm_renders_the_chart() -> None:
    helm, chart = shutil.which("helm"), os.environ.get("GLR_HELM_CHART")
    if helm is None or chart is None:
        pytest.skip("no helm on the PATH, or no chart of Dagster's in GLR_HELM_CHART")
    command = [helm, "template", "glr", chart, "-f", str(VALUES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
