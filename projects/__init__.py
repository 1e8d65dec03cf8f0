"""Projects that use the library: each has a README."""
