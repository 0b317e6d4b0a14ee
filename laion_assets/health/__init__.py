"""What Dagster recorded about a load, and whether all is well. It starts, schedules and shows nothing."""
