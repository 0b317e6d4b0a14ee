"""When things run: jobs, schedules, conditions, sensors. What runs is in assets/."""
