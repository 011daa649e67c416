-- Background responses: who makes them, and what they have told.

-- One for each response that was made in the background, for as long as that is stored.
CREATE TABLE runs (
  response BIGINT PRIMARY KEY REFERENCES responses (n),
  request TEXT NOT NULL, -- JSON, from which it can be made again; empty once it is over
  given BIGINT NOT NULL, -- how many of its items, the last ones of its input, are the request's
  streams SMALLINT NOT NULL CHECK (streams IN (0, 1)),
  owner TEXT NOT NULL, -- of the process that makes it; empty: nobody yet
  attempt BIGINT NOT NULL, -- grows whenever somebody takes it over; what an earlier one writes is refused
  lease_until BIGINT NOT NULL, -- Unix milliseconds
  last_seq BIGINT NOT NULL,
  is_over SMALLINT NOT NULL DEFAULT 0 CHECK (is_over IN (0, 1))
);

CREATE INDEX runs_under_way ON runs (lease_until, response, owner, attempt) WHERE is_over = 0;

CREATE TABLE response_events (
  response BIGINT NOT NULL, -- its n
  seq BIGINT NOT NULL,
  attempt BIGINT NOT NULL, -- that wrote it
  data TEXT NOT NULL, -- JSON
  PRIMARY KEY (response, seq)
);

-- Which response a request with an Idempotency-Key made, for a while.
CREATE TABLE requests (
  project TEXT NOT NULL,
  key TEXT NOT NULL,
  digest BYTEA NOT NULL, -- of its body
  response_id TEXT NOT NULL,
  created_at BIGINT NOT NULL, -- Unix seconds
  PRIMARY KEY (project, key)
);

CREATE INDEX requests_by_time ON requests (created_at);
