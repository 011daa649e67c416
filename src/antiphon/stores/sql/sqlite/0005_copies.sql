-- What was brought from elsewhere for requests, for later turns. Its bytes are a blob, under `key`; what was brought anew
-- comes last. `digest` is a hash of the project, the kind and the source.
CREATE TABLE copies (
  n INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE,
  key TEXT NOT NULL,
  bytes INTEGER NOT NULL
) STRICT;
