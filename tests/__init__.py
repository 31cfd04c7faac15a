"""A package, so that no library that installs a "tests" of its own can hide it."""
