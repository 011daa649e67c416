-- Files and uploads. Their bytes are blobs, elsewhere, under the ids of files and of parts: so an id is never given twice.

-- Times are in Unix seconds.
CREATE TABLE files (
  n INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  id TEXT NOT NULL UNIQUE,
  bytes INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER, -- NULL: never
  filename TEXT NOT NULL,
  purpose TEXT NOT NULL
) STRICT;

-- For listing; (created_at, n) is the cursor.
CREATE INDEX files_by_time ON files (project, created_at, n);
CREATE INDEX files_by_purpose ON files (project, purpose, created_at, n);
CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;

-- An ended upload stays until it expires, so that who asks for it again is told what became of it.
CREATE TABLE uploads (
  n INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  id TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL,
  bytes INTEGER NOT NULL, -- that it is meant to have
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  filename TEXT NOT NULL,
  purpose TEXT NOT NULL,
  expires_after_s INTEGER -- of the file that it becomes
) STRICT;

CREATE INDEX uploads_by_expiry ON uploads (expires_at);

-- Of pending uploads only.
CREATE TABLE upload_parts (
  upload INTEGER NOT NULL REFERENCES uploads (n),
  id TEXT NOT NULL UNIQUE,
  bytes INTEGER NOT NULL,
  PRIMARY KEY (upload, id)
) STRICT, WITHOUT ROWID;

-- What each project keeps: files and pending uploads, and the bytes of files and parts. Kept up to date by whoever
-- changes those, so that a quota costs no sum.
CREATE TABLE file_usage (
  project TEXT PRIMARY KEY,
  files INTEGER NOT NULL CHECK (files >= 0),
  bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT, WITHOUT ROWID;

-- Blobs that no row above stands for: being written, or about to be deleted.
CREATE TABLE loose_blobs (
  key TEXT PRIMARY KEY,
  due_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX loose_blobs_by_time ON loose_blobs (due_at);
