-- Two more indexes for listing, which find what is rare without reading past what is not: as in SQLite.

CREATE INDEX responses_by_model ON responses (project, model, created_at, n) INCLUDE (status) WHERE deleted = 0;
CREATE INDEX responses_by_status ON responses (project, status, created_at, n) INCLUDE (model)
WHERE deleted = 0 AND status <> 'completed';
