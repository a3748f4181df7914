"""What runs by itself: sensors, schedules and the jobs they and people start."""

from glr_assets.defs.automation.alerts import failure_alerts
from glr_assets.defs.automation.broken import CHECKS, look_for_what_is_broken
from glr_assets.defs.automation.ingestion import RETRIES, ingest_new_shards
from glr_assets.defs.automation.lost_processes import lost_runs
from glr_assets.defs.automation.purposes import JOBS, weekly_training
from glr_assets.defs.automation.refresh import refresh_index, refresh_manifests
from glr_assets.defs.automation.roots import observe_roots

SENSORS = [observe_roots, ingest_new_shards, refresh_manifests, refresh_index, failure_alerts, lost_runs]
SCHEDULES = [*RETRIES, look_for_what_is_broken, weekly_training]

__all__ = ["CHECKS", "JOBS", "SCHEDULES", "SENSORS"]
