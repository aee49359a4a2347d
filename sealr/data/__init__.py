"""From review files to validated tables and sequences, and the tables that stages exchange."""
