"""Components: portable parts that code calls directly or over the bus. Builds on clients/ and schemas/ only."""
