"""Where the bytes of files lie. Each adapter implements the port Blobs and knows no row and no request."""
