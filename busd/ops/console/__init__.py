"""The console: a page in a browser that shows this node live. What it shows is collected only while somebody looks."""
