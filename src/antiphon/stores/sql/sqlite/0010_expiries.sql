-- Responses that are to go at a time of their own.
CREATE TABLE expiries (
  expires_at INTEGER NOT NULL, -- Unix seconds
  project TEXT NOT NULL,
  response_id TEXT NOT NULL, -- noted before the response is stored: it may never be
  PRIMARY KEY (expires_at, project, response_id)
) STRICT, WITHOUT ROWID;
