"""The web page: search, check and compare in a browser, on files that lie inside the package."""
