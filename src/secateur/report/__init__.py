"""Charts and the report: what a person looks at when the numbers are in.

`charts` turns rows of data into charts, `theme` says how they look, `content` holds what a report is made
from, `sections` puts it into words, tables and figures, and `html` renders one offline page.
"""
