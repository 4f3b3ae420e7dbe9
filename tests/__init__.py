"""The tests; a package so that they can import their site and helpers by name."""
