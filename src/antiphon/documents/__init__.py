"""Text out of documents, in a process of its own with limits. Knows no request and no store."""
