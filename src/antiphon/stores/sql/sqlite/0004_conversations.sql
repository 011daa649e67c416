-- Conversations and their items.

-- Known by (project, id), as responses are. `n` may be given again once the newest row is deleted; nothing outside one
-- transaction keeps it.
CREATE TABLE conversations (
  n INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  id TEXT NOT NULL,
  created_at INTEGER NOT NULL, -- Unix seconds
  metadata TEXT NOT NULL, -- JSON
  version INTEGER NOT NULL DEFAULT 0, -- grows with every change of its items
  item_count INTEGER NOT NULL DEFAULT 0,
  item_bytes INTEGER NOT NULL DEFAULT 0, -- what reading all of them costs
  next_position INTEGER NOT NULL DEFAULT 0, -- never given twice
  locked_by TEXT, -- the id of the response that is being made in it
  locked_until INTEGER, -- Unix seconds: a lock that nobody renews ends, whatever became of its owner
  CHECK ((locked_by IS NULL) = (locked_until IS NULL)),
  UNIQUE (project, id)
) STRICT;

-- The place is the conversation's n * 2^32 + position: items of one conversation lie side by side, in their order. An id
-- is unique within its conversation, which the one writer at a time sees to.
CREATE TABLE conversation_items (
  place INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  id TEXT NOT NULL,
  data TEXT NOT NULL -- JSON
) STRICT;

CREATE INDEX conversation_items_by_id ON conversation_items (project, id);
