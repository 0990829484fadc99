"""The names of the AWS resources, once: defaults of the settings and what is provisioned."""

RAW_STREAM = "readings-raw"
READINGS_STREAM = "readings"
SCORES_STREAM = "scores"

LAKE_BUCKET = "telemill-lake"
STATE_BUCKET = "telemill-state"
RESULTS_BUCKET = "telemill-results"

PROGRESS_TABLE = "telemill-progress"
GLUE_DATABASE = "telemill"
ALERT_TOPIC = "telemill-alerts"
ATHENA_WORKGROUP = "telemill"
