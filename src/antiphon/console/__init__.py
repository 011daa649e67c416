"""The console: a web page at `/` that is a client of the API like any other. Its sources are in console/."""
