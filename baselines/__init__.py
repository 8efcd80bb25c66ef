"""One training method a file; each imports ``sgpo.core`` alone, and anyone may import it."""
