"""Training states on disk: written whole or not at all, verified before they are trusted, deleted with care."""
