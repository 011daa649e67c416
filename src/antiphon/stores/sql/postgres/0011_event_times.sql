-- When events of background responses were written: as in SQLite, whose 0011_event_times.sql says what it means.
ALTER TABLE response_events ADD COLUMN written_at BIGINT;
