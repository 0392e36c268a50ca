"""Files, folders and names become a Model; data become examples."""
