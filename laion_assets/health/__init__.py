"""What Dagster recorded of a load, and whether all is well. It starts, schedules and shows nothing."""
