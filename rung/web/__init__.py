"""The page of a server: a document, a stylesheet and a script in modules."""
