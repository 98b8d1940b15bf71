"""Image and caption curation: sources, filters, deduplication, WebDataset shards."""
