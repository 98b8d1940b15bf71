"""Where records and files live: local folders and object stores, published whole or not at all."""
