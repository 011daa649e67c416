-- When background responses ended, so that what they told is kept for a while only.

-- Unix seconds. 0: it is not over, or a server of the version before ended it. NULL: its events are gone, and last_seq is
-- -1 from when the first of them went.
ALTER TABLE runs ADD COLUMN ended_at INTEGER DEFAULT 0;

CREATE INDEX runs_ended ON runs (ended_at) WHERE is_over = 1 AND streams = 1 AND ended_at IS NOT NULL;
