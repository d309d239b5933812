"""What people look at: a page, the API's documentation, and the document behind it. No build step."""
