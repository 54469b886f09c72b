"""Recordings as codes: packing them, the files they are kept in, and how good what comes back is."""
