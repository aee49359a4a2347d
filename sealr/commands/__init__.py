"""The subcommands of ``sealr``, by what they are about. Libraries that are slow to import load inside a command."""
