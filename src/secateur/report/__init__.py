"""Charts and the HTML report.

`charts` turns rows of data into charts, `theme` sets their style, `content` holds a report's data, `sections`
makes its tables and figures, `words` its sentences, and `html` renders one offline page.
"""
