"""The things that agents act on."""
