"""Pages about datasets: one self-contained HTML file each, which fetches nothing and escapes all text of the data."""
