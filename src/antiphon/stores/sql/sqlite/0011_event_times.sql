-- When events of background responses were written.

-- Unix milliseconds, of the first event of those that were written together. NULL: with the one before it; where that is
-- of another attempt, a server of the version before wrote all of its attempt.
ALTER TABLE response_events ADD COLUMN written_at INTEGER;
