-- Background responses: who makes them, and what they have told.

-- One for each response that was made in the background, for as long as that is stored.
CREATE TABLE runs (
  response INTEGER PRIMARY KEY REFERENCES responses (n),
  request TEXT NOT NULL, -- JSON, from which it can be made again; empty once it is over
  given INTEGER NOT NULL, -- how many of its items, the last ones of its input, are the request's
  streams INTEGER NOT NULL CHECK (streams IN (0, 1)),
  owner TEXT NOT NULL, -- of the process that makes it; empty: nobody yet
  attempt INTEGER NOT NULL, -- grows whenever somebody takes it over; what an earlier one writes is refused
  lease_until INTEGER NOT NULL, -- Unix milliseconds
  last_seq INTEGER NOT NULL,
  is_over INTEGER NOT NULL DEFAULT 0 CHECK (is_over IN (0, 1))
) STRICT;

CREATE INDEX runs_under_way ON runs (lease_until, response, owner, attempt) WHERE is_over = 0;

CREATE TABLE response_events (
  response INTEGER NOT NULL, -- its n
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL, -- that wrote it
  data TEXT NOT NULL, -- JSON
  PRIMARY KEY (response, seq)
) STRICT, WITHOUT ROWID;

-- Which response a request with an Idempotency-Key made, for a while.
CREATE TABLE requests (
  project TEXT NOT NULL,
  key TEXT NOT NULL,
  digest BLOB NOT NULL, -- of its body
  response_id TEXT NOT NULL,
  created_at INTEGER NOT NULL, -- Unix seconds
  PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_time ON requests (created_at);
