-- Conversations in the order in which they were made, to be listed.
CREATE INDEX conversations_by_time ON conversations (project, created_at, n);
