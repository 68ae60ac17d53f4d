"""The components that agents act on."""
