"""When things run: jobs, schedules, conditions, sensors. The assets that run are in assets/."""
