"""The stages that turn reviews into a registered model, as plain functions over files."""
