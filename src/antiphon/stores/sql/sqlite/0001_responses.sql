-- Responses, their items, their metadata, and API keys.

-- A response is known by (project, id): the same id in another project is another response.
-- `n` numbers responses in the order they are saved, so a parent's is always smaller than its child's. It may be given
-- again once the newest row is erased; nothing outside one transaction keeps it.
-- An erased response (deleted = 1, no body) stands for as long as a living descendant needs its items.
CREATE TABLE responses (
  n INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  id TEXT NOT NULL,
  parent INTEGER REFERENCES responses (n),
  chain_bytes INTEGER NOT NULL, -- of its own rows and its ancestors': what reading its context costs
  status TEXT NOT NULL,
  model TEXT NOT NULL,
  created_at INTEGER NOT NULL, -- Unix seconds
  deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
  body TEXT CHECK ((body IS NULL) = deleted), -- JSON, without `output`, which is in items
  UNIQUE (project, id)
) STRICT;

CREATE INDEX responses_by_parent ON responses (parent) WHERE parent IS NOT NULL;

-- For listing, newest first; (created_at, n) is the cursor. Erased responses are in no list. Model and status ride
-- along, so that a filter on them reads this index alone.
CREATE INDEX responses_by_time ON responses (project, created_at, n, model, status) WHERE deleted = 0;

-- Only what is new with its response: input of its own and output. The place is the response's n * 2^20 + position:
-- items of one response lie side by side, and the order of places is the order of the conversation.
-- An id is not unique: clients send back what they were given, and then it is stored again.
CREATE TABLE items (
  place INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  id TEXT NOT NULL,
  is_input INTEGER NOT NULL CHECK (is_input IN (0, 1)),
  type TEXT NOT NULL,
  data TEXT NOT NULL -- JSON
) STRICT;

CREATE INDEX items_by_id ON items (project, id);

-- Metadata of living responses, to list by key and value, newest first. No index by response: the body tells which
-- rows are a response's.
CREATE TABLE metadata (
  project TEXT NOT NULL,
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  response INTEGER NOT NULL, -- its n
  PRIMARY KEY (project, key, value, created_at, response)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  project TEXT NOT NULL,
  name TEXT NOT NULL,
  hint TEXT NOT NULL,
  digest BLOB NOT NULL UNIQUE,
  created_at INTEGER NOT NULL
) STRICT;

-- api_keys: a number that grows with every change of the keys, whoever makes it. Asking for it tells a server that caches
-- them whether to read them again. checks: grows when the store is asked whether it can be written.
CREATE TABLE counters (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counters (name, value) VALUES ('api_keys', 0), ('checks', 0);

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys
BEGIN UPDATE counters SET value = value + 1 WHERE name = 'api_keys'; END;

CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys
BEGIN UPDATE counters SET value = value + 1 WHERE name = 'api_keys'; END;

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN UPDATE counters SET value = value + 1 WHERE name = 'api_keys'; END;
