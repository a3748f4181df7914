"""What runs by itself: sensors, schedules and the jobs they and people start."""

from glr_assets.defs.automation import jobs
from glr_assets.defs.automation.alerts import failure_alerts
from glr_assets.defs.automation.conditions import automation
from glr_assets.defs.automation.health_checks import CHECKS, daily_health_checks
from glr_assets.defs.automation.jobs import WEEKLY
from glr_assets.defs.automation.retries import retry_failed_shards, retry_job
from glr_assets.defs.automation.roots import observe_roots
from glr_assets.defs.reconfirmation_job import confirm_job

JOBS = [*jobs.JOBS, retry_job, confirm_job]
SENSORS = [observe_roots, automation, failure_alerts]
SCHEDULES = [retry_failed_shards, daily_health_checks, *WEEKLY]

__all__ = ["CHECKS", "JOBS", "SCHEDULES", "SENSORS"]
