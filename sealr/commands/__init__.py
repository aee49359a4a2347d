"""The subcommands of ``sealr``, one module per topic. Libraries that load slowly are imported inside the commands."""
