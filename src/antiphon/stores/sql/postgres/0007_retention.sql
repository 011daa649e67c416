-- When background responses ended: as in SQLite, whose 0007_retention.sql says what it is for.

-- Neither rewrites the table: the default is noted once for all rows, and the index is read out of small ones.
ALTER TABLE runs ADD COLUMN ended_at BIGINT DEFAULT 0;

CREATE INDEX runs_ended ON runs (ended_at) WHERE is_over = 1 AND streams = 1 AND ended_at IS NOT NULL;
