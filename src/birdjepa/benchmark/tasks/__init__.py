"""The tasks of the benchmark, one file each suite."""
