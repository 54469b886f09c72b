"""The training loop and what watches it. It is handed an objective and batches, and knows no data sets."""
