"""What runs by itself: sensors, schedules and the jobs they and people start."""

from glr_assets.defs.automation.alerts import failure_alerts
from glr_assets.defs.automation.broken import CHECKS, look_for_what_is_broken
from glr_assets.defs.automation.ingestion import RETRIES, ingest_new_shards
from glr_assets.defs.automation.jobs import JOBS, WEEKLY
from glr_assets.defs.automation.refresh import refresh_index, refresh_manifests
from glr_assets.defs.automation.roots import observe_roots

SENSORS = [observe_roots, ingest_new_shards, refresh_manifests, refresh_index, failure_alerts]
SCHEDULES = [*RETRIES, look_for_what_is_broken, *WEEKLY]

__all__ = ["CHECKS", "JOBS", "SCHEDULES", "SENSORS"]
