"""The HTTP side: paths, bodies, headers. It asks the engine, and knows no model, tool or store."""
