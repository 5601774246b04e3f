"""The context store on a node's disk: one SQLite file per agent.

`schema` has the tables, `rows` reads them, `writes` changes them, `queue` groups what is written into commits, `context` is one agent's
file, `store` the directory of all of them.
"""
