"""Pages that read what was made: tables, manifests and MLflow; nothing is computed here and torch
is never imported."""
