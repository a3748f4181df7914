"""Tags of runs: those that Dagster documents, and those of this project."""

from typing import Final

PARTITION: Final = "dagster/partition"
RANGE_START: Final = "dagster/asset_partition_range_start"
RANGE_END: Final = "dagster/asset_partition_range_end"
MAX_RETRIES: Final = "dagster/max_retries"
RETRY_ON_FAILED_STEPS: Final = "dagster/retry_on_asset_or_op_failure"
BACKFILL: Final = "dagster/backfill"
#: Set by Dagster on a failed run that it begins again by itself.
WILL_RETRY: Final = "dagster/will_retry"
#: Of a job that writes nothing to the store, not even the settings of its run.
READ_ONLY: Final = "glr/read_only"
