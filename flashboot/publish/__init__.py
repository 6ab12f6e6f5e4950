"""Program 1, in CI: a file or a device becomes an image in a store."""
