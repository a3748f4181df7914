"""The code location under the name by which Dagster's servers load it, for runs that another process makes."""

from __future__ import annotations

import sys
from typing import Final

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

#: The name of the code location wherever it is loaded: what was switched on in the UI stays so.
LOCATION: Final = "glr_assets"
MODULE: Final = "glr_assets.definitions"


def origin_of(job: str) -> RemoteJobOrigin:
    """Where Dagster finds a job of the code location."""
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)


def label_tags(origin: RemoteJobOrigin) -> dict[str, str]:
    """The tag by which the UI filters runs by code location."""
    return {REPOSITORY_LABEL_TAG: origin.repository_origin.get_label()}


def set_origin(instance: dg.DagsterInstance, run_id: str, origin: RemoteJobOrigin) -> None:
    """Record where the job of a run is found. Without it the UI cannot re-execute the run.

    `execute_in_process` records nothing of it.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None:
        instance.run_storage.replace_job_origin(run, origin)
