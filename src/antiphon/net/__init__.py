"""Reaching out: the one fetcher for addresses that come from a request. Knows no item, no model and no store."""
