"""From result files to tables, figures and reports; reads files, never trains.

    page.draw(workdir)                                 writes sweep.png, sweep.svg and report.html
    tables.markdown(tables.point_table(...))           the table of the design points
    layer_table.summary_text(layer_table.summary(...)) a traced network, layer by layer

Nothing is imported here: tables of layers must not wait for the drawing libraries.
"""
