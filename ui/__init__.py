"""The web page that shows, starts, stops and resumes runs: `dbr ui`. A page is a file; `app.py` puts them together."""
