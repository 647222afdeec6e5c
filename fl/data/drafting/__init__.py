"""Draft a schema from a file of transactions (`fl.data.draft` is the entry).

looks.py      what one pass over the file shows of each column
moments.py    dates in many notations, and numbers that count from 1970
names.py      what the words in a column's name suggest
suspects.py   columns that must not become inputs: the label in disguise, copies of time, row numbers, constants
guesses.py    the role of every column, with the reason
sections.py   the TOML, with reasons and alternatives as comments
"""
