"""antiphon: a self-hosted server for the Responses API, in front of any model."""

__version__ = "0.1.0"
