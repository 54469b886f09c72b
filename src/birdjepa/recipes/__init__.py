"""Named full configurations, and the jobs that put all rooms together. The only place that knows everything."""
