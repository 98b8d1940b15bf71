"""What ``softalign doctor`` looks at on this machine and at the places it reaches; the server's part is in flows."""
