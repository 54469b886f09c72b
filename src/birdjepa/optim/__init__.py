"""Which parameters learn how fast: groups, schedules, averaged weights."""
