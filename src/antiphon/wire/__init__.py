"""The contract: what travels, as data only."""
