"""Encodings by the frozen model: made once for each content, kept in shared shards, read batch by batch."""
