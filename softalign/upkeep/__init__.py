"""What keeps a store and a machine's cache tidy: what no record refers to, and what can be fetched again."""
