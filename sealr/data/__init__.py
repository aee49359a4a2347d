"""Turns review files into validated tables and sequences, and defines the tables that stages exchange."""
