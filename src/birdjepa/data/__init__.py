"""Which recordings there are, in what order they are seen, and how they become batches of clips."""
