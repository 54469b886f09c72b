"""What every room stands on: errors, named random streams, configuration files, atomic files, provenance."""
