"""Models under test, one file each kind."""
