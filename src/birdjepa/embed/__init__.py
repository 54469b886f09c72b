"""Embedding collections: recordings or labelled segments in, one tidy Parquet file or one table for a probe out.

`collection.embed_collection` is what `birdjepa embed` runs: resumable, exactly-once, constant memory. `rows.embed_rows`
gives one embedding per manifest row, by several embedders at once, each recording decoded once. Below them:

    segments, reading   which samples belong to a clip or a labelled segment; decoding ahead of the encoder
    embedders           what turns clips into vectors: an encoder's pooled output, its layers, log-mel statistics
    batching            clips of many recordings in batches of one length
    parts               finished parts beside the output, and the table they become
"""
