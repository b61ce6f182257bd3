"""Web service: a JSON API and a page over one checkpoint."""
