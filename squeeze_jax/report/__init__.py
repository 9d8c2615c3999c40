"""From result files to tables, figures and reports; reads files, never trains.

    report.draw(workdir)                          writes sweep.png, sweep.svg and report.html into it
    tables.markdown(tables.point_table(...))      the table of the design points, as experiments/*/README.md shows it
    layers.summary_text(layers.summary(...))      a traced net, layer by layer

Nothing is imported here: tables of layers must not wait for the drawing libraries.
"""
