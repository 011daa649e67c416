-- What was asked for and what came of it, by the minute, process, project and model.
CREATE TABLE rollups (
  project TEXT NOT NULL, -- empty: the server's
  minute BIGINT NOT NULL, -- Unix seconds
  process TEXT NOT NULL,
  model TEXT NOT NULL,
  data TEXT NOT NULL, -- JSON
  PRIMARY KEY (project, minute, process, model)
);

CREATE INDEX rollups_by_time ON rollups (minute);
