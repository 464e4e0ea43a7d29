"""Looking at data sets and at finished runs: analyze, compare, summarize."""
